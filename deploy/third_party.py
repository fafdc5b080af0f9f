#!/usr/bin/env python3
"""Writes THIRD-PARTY.md: whose work the `vigie` program contains, under which licence, with the notices that these ask to be kept.

Reads `cargo metadata` for what the service is built from (no tests, no training) and the licence files of each package.
With --check it only says which packages are missing in the page.
"""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "THIRD-PARTY.md"
HEAD = """# Third-party software

Made by `deploy/third_party.py`. The `vigie` program contains the packages below; each is used under the licence named here. Full text of
the Apache License 2.0: [LICENSE-APACHE](LICENSE-APACHE). OpenSSL is not contained but loaded from the system.
The word vectors of the built-in model began as those of the sentence encoder multilingual-e5-small (Liang Wang and others, Microsoft; MIT).

"""


def packages():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    by_id = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, left = set(), [metadata["resolve"]["root"]]
    while left:
        node = nodes[left.pop()]
        for dependency in node["deps"]:
            is_built_in = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            is_macro = all("proc-macro" in target["kind"] for target in by_id[dependency["pkg"]]["targets"] if target["kind"] != ["custom-build"])
            if is_built_in and not is_macro and dependency["pkg"] not in found:
                found.add(dependency["pkg"])
                left.append(dependency["pkg"])
    unique = {by_id[package]["name"]: by_id[package] for package in sorted(found)}
    return [unique[name] for name in sorted(unique)]


def licence(package):
    names = re.split(r" OR |/", package["license"] or "")
    names = [name.strip("() ") for name in names]
    return next((name for name in ("Apache-2.0", "MIT") if name in names), names[0])


def notices(package):
    folder = pathlib.Path(package["manifest_path"]).parent
    wanted = re.compile(r"(licen[cs]e|copying|notice|copyright)", re.IGNORECASE)
    nested = ["librdkafka", "zstd", "src/zlib"]
    # librdkafka has one file with all of its licences; zstd's COPYING is the GPL, which is the other choice.
    passed_over = re.compile(r"apache|unlicense|gpl|librdkafka/LICENSE([.]|$)|zstd/COPYING", re.IGNORECASE)
    files = [file for place in [folder] + [folder / name for name in nested] if place.is_dir() for file in sorted(place.iterdir())]
    for file in files:
        # Of several licences the one that we use; the Apache License is in LICENSE-APACHE already.
        if file.is_file() and wanted.match(file.name) and not passed_over.search("/".join(file.parts[-2:])):
            if file.suffix not in (".rs", ".py", ".sh"):
                yield file.read_text(encoding="utf-8", errors="replace").strip()


def main():
    found = packages()
    if "--check" in sys.argv:
        page = PAGE.read_text(encoding="utf-8")
        missing = [package["name"] for package in found if f"| {package['name']} |" not in page]
        if missing:
            sys.exit(f"error: THIRD-PARTY.md does not name {', '.join(missing)}\nhint: run deploy/third_party.py and commit the page")
        return
    rows, texts = [], {}
    for package in found:
        chosen = licence(package)
        rows.append(f"| {package['name']} | {chosen} | {package['repository'] or ''} |")
        has_foreign_code = package["name"].endswith("-sys")
        if chosen != "Apache-2.0" or has_foreign_code:
            for text in notices(package):
                texts.setdefault(text, []).append(package["name"])
    parts = [HEAD, "| package | licence | source |\n|---|---|---|\n", "\n".join(rows), "\n\n## Notices\n"]
    for text, names in texts.items():
        parts.append(f"\n### {', '.join(names)}\n\n```text\n{text}\n```\n")
    PAGE.write_text("".join(parts), encoding="utf-8")


main()
