#!/usr/bin/env bash
# All tests: unit tests, layering, formatting, black-box tests with the real openai client, unit tests under ASan+UBSan.
#   --quick      unit tests of the release build only
#   --sanitizer=asan-ubsan|tsan   only the unit tests under that preset
. "$(dirname "$0")/common.sh"

unit_tests_under() {
  need_packages g++ cmake ninja-build
  say "unit tests under $1"
  cmake --preset "$1" >/dev/null
  ninja -C "build-$1" all_unit_tests
  ctest --test-dir "build-$1" --output-on-failure
}

mode=full
for argument in "$@"; do
  case $argument in
    --quick) mode=quick ;;
    --sanitizer=*) mode=${argument#--sanitizer=} ;;
    *) die "unknown argument $argument" ;;
  esac
done

scripts/build.sh
case $mode in
  asan-ubsan | tsan) unit_tests_under "$mode"; exit ;;
esac

scripts/fetch-model.sh || say "the default model could not be fetched: tests that need it will be skipped"
need_packages python3
say "unit tests and layering"
POLYLORA_DEFAULT_MODEL="$PWD/$default_model" ctest --test-dir build --output-on-failure
[ $mode = quick ] && exit

need_packages clang-format-14
say "formatting"
git ls-files 'src/*.h' 'src/*.cc' 'tests/*.cc' 'tests/*.h' 'bench/*.cc' | xargs clang-format-14 --dry-run -Werror

need_venv
say "black-box tests"
POLYLORA_DEFAULT_MODEL="$PWD/$default_model" .venv/bin/python -m pytest -q tests/blackbox

unit_tests_under asan-ubsan
say "all tests passed"
