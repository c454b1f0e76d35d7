#!/usr/bin/env bash
# Installs what the build needs and leaves build/polylora. Arguments go to CMake: scripts/build.sh -DPOLYLORA_TESTS=OFF
. "$(dirname "$0")/common.sh"

need_build_packages
cmake --preset release "$@" >/dev/null
ninja -C build polylora
say "built build/polylora"
