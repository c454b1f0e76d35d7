#!/usr/bin/env bash
# Fuzzes every parser for the given number of seconds each (default 30). Needs clang; findings are left in build-fuzz/.
. "$(dirname "$0")/common.sh"

scripts/build.sh -DPOLYLORA_TESTS=OFF >/dev/null
need_packages clang-14
cmake --preset fuzz >/dev/null
ninja -C build-fuzz
for target in build-fuzz/tests/fuzz/*_fuzz; do
  say "$(basename "$target")"
  corpus=build-fuzz/corpus/$(basename "$target")
  mkdir -p "$corpus"
  "$target" "$corpus" -max_total_time="${1:-30}" -max_len=65536 -rss_limit_mb=4096 -artifact_prefix="$corpus-" \
    -print_final_stats=1 2>&1 | tail -n 5
done
