#!/usr/bin/env bash
# Installs what building or testing Vigie needs and is not there yet; says the exact command where it may not install.
# usage: deploy/setup.sh build | test | browser
set -euo pipefail
what=${1:-build}

packages=()
need() { command -v "$1" >/dev/null 2>&1 || packages+=("$2"); }
need cc gcc
need g++ g++
need make make
need curl curl
need pkg-config pkg-config
if ! pkg-config --exists libssl 2>/dev/null; then packages+=(libssl-dev); fi
case $what in
test)
    need java default-jre-headless
    need keytool default-jre-headless
    need mvn maven
    need kcat kcat
    ;;
browser) need chromium chromium ;;
esac

if [ ${#packages[@]} -gt 0 ]; then
    install="apt-get install --yes --no-install-recommends ${packages[*]} ca-certificates"
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "error: missing: ${packages[*]}" >&2
        echo "hint: install them with your system's package manager and run this again" >&2
        exit 1
    elif [ "$(id -u)" = 0 ]; then
        apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive $install -qq >&2
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        sudo apt-get update -qq >&2 && sudo DEBIAN_FRONTEND=noninteractive $install -qq >&2
    else
        echo "error: missing: ${packages[*]}" >&2
        echo "hint: run \`sudo apt-get update && sudo $install\` and then this again" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null 2>&1 && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
    echo "no Rust toolchain found: installing one with rustup into $HOME/.cargo" >&2
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --component clippy,rustfmt >&2
fi

# Apache Kafka for the tests, from Maven Central: jars only, fetched once.
if [ "$what" = test ]; then
    libs=${VIGIE_TEST_KAFKA_LIBS:-.cache/kafka}
    if ! ls "$libs"/kafka_2.13-*.jar >/dev/null 2>&1; then
        echo "fetching Apache Kafka for the tests into $libs (once, 44 MB)" >&2
        mkdir -p "$libs"
        mvn -q -B -f tests/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory="$(cd "$libs" && pwd)" -DincludeScope=runtime >&2
    fi
fi
