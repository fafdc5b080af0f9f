#!/usr/bin/env bash
# Fuzzes every target of fuzz/ in turn. usage: deploy/fuzz.sh MINUTES [TARGET…]
# What a run finds by itself stays in fuzz/target/corpus; an input that breaks something goes to fuzz/artifacts, and the exit code is 1.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"
# cargo-fuzz needs compiler flags that are not stable yet; this allows them to the compiler that builds the service.
export RUSTC_BOOTSTRAP=1
minutes=${1:-20}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(input_decoder normalizer artifact_reader config http_bodies)

if ! command -v cargo-fuzz >/dev/null 2>&1; then
    echo "installing cargo-fuzz (once)" >&2
    cargo install --quiet --locked --debug --version 0.13.2 cargo-fuzz >&2
fi

failed=0
for target in "${targets[@]}"; do
    mkdir -p "fuzz/target/corpus/$target"
    log=fuzz/target/$target.log
    # No sanitizer: Vigie's own code has no `unsafe`, and librdkafka's configure script does not link against instrumented libraries.
    if cargo fuzz run --sanitizer none "$target" "fuzz/target/corpus/$target" "fuzz/corpus/$target" -- \
        -max_total_time=$((minutes * 60)) -max_len=6000 -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 >"$log" 2>&1; then
        result="no finding"
    else
        result="FAILED: see $log"
        failed=1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
    edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    echo "$target: ${runs:-0} runs in $minutes minutes, ${edges:-0} edges, $result"
done
exit $failed
