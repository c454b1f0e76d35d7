#!/usr/bin/env bash
# Fuzzes every parser for the given number of seconds each (default 30). Needs clang; stops at the first finding, which
# is left in build-fuzz/corpus/ with the inputs that reached new code.
. "$(dirname "$0")/common.sh"

need_build_packages
need_packages clang-14 libclang-rt-14-dev
cmake --preset fuzz >/dev/null
ninja -C build-fuzz
for target in build-fuzz/tests/fuzz/*_fuzz; do
  name=$(basename "$target")
  corpus=build-fuzz/corpus/$name
  log=$corpus.log
  mkdir -p "$corpus"
  say "$name"
  "$target" "$corpus" -max_total_time="${1:-30}" -max_len=65536 -rss_limit_mb=4096 -timeout=10 \
    -artifact_prefix="$corpus-" -print_final_stats=1 >"$log" 2>&1 || { tail -n 40 "$log"; die "$name found something"; }
  grep -E '^stat::(number_of_executed_units|peak_rss_mb)' "$log"
done
