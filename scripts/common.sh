# Shared by the scripts: sourced, not run. Everything is relative to the repository root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

default_model=models/SmolLM2-135M-Instruct.Q4_1.gguf

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Installs the Debian packages that are missing; does nothing, and needs no network, when all are there.
need_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  say "installing ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

need_build_packages() {
  need_packages g++ cmake ninja-build nlohmann-json3-dev libcli11-dev libspdlog-dev libfmt-dev libyaml-cpp-dev \
    libboost1.81-dev libssl-dev libcurl4-openssl-dev libpcre2-dev libutf8proc-dev prometheus-cpp-dev libxxhash-dev libcairo2-dev libgtest-dev libgmock-dev \
    python3
}

# A private Python environment; Debian's own Python refuses packages from PyPI.
need_venv() {
  need_packages python3 python3-venv ca-certificates
  [ -x .venv/bin/pip ] || python3 -m venv .venv
  if ! cmp -s tests/requirements.txt .venv/requirements.txt; then
    say "installing Python packages for the tests"
    .venv/bin/pip install -q -r tests/requirements.txt
    cp tests/requirements.txt .venv/requirements.txt
  fi
}
