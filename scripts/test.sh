#!/usr/bin/env bash
# All tests: unit tests, layering, formatting, black-box tests with the real openai client.
#   --quick            unit tests and layering only
#   --asan, --tsan     only the unit tests, under these sanitizers
#   --fuzz [SECONDS]   only the fuzz targets, so long each
. "$(dirname "$0")/common.sh"

unit_tests() {  # PRESET BUILD-FOLDER
  say "unit tests ($1)"
  need_build_packages
  cmake --preset "$1" >/dev/null
  ninja -C "$2" all_unit_tests
  POLYLORA_DEFAULT_MODEL="$PWD/$default_model" ctest --test-dir "$2" --output-on-failure
}

check_format() {
  need_packages clang-format-14
  say "formatting"
  find src tests bench -name '*.cc' -o -name '*.h' | xargs clang-format-14 --dry-run -Werror
}

blackbox_tests() {
  need_venv
  say "black-box tests"
  POLYLORA_DEFAULT_MODEL="$PWD/$default_model" .venv/bin/python -m pytest -q tests/blackbox
}

case ${1:-} in
  --asan) unit_tests asan-ubsan build-asan-ubsan; exit ;;
  --tsan) unit_tests tsan build-tsan; exit ;;
  --fuzz) exec scripts/fuzz.sh "${2:-30}" ;;
  --quick | '') ;;
  *) die "unknown argument $1 (--quick, --asan, --tsan, --fuzz)" ;;
esac

scripts/build.sh
scripts/fetch-model.sh || say "the default model could not be fetched: tests that need it are skipped"
unit_tests release build
[ "${1:-}" = --quick ] && exit
check_format
blackbox_tests
say "all tests passed"
