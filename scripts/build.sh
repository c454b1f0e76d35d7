#!/usr/bin/env bash
# Installs what the build needs and leaves build/polylora. Arguments go to CMake: scripts/build.sh -DPOLYLORA_BENCH=ON
. "$(dirname "$0")/common.sh"

need_packages g++ cmake ninja-build nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev libyaml-cpp-dev \
  libboost1.81-dev libssl-dev libpcre2-dev libutf8proc-dev prometheus-cpp-dev libxxhash-dev libgtest-dev libgmock-dev

cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release "$@" >/dev/null
ninja -C build
say "built build/polylora"
