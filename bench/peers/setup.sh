#!/usr/bin/env bash
# Builds the peers and their models for compare.py, outside the repository. What is there already is kept.
#   bench/peers/setup.sh DIR [JOBS]       needs build/polylora, models/ (scripts/build.sh, scripts/fetch-model.sh), 8 GB of disk
. "$(dirname "$0")/../../scripts/common.sh"

[ $# -ge 1 ] || die "usage: bench/peers/setup.sh DIR [JOBS]"
mkdir -p "$1"
peers=$(cd "$1" && pwd)
jobs=${2:-$(nproc)}
polylora=${POLYLORA:-$PWD/build/polylora}
llama_cpp_python=0.3.36  # its source carries llama.cpp
openvino_genai=2026.4.1.0
[ -x "$polylora" ] || die "$polylora is missing: scripts/build.sh"
[ -f "$default_model" ] || die "$default_model is missing: scripts/fetch-model.sh"

make_venv() {
  need_packages python3 python3-venv ca-certificates
  [ -x "$peers/venv/bin/pip" ] || python3 -m venv "$peers/venv"
  "$peers/venv/bin/pip" install -q "openvino-genai==$openvino_genai"
}

build_llama_cpp() {
  local source="$peers/llama.cpp/source" build="$peers/llama.cpp/build"
  [ -x "$peers/llama.cpp/bin/llama-server" ] && return
  say "building llama.cpp"
  mkdir -p "$source"
  "$peers/venv/bin/pip" download -q --no-deps --no-binary llama-cpp-python "llama-cpp-python==$llama_cpp_python" --dest "$peers/llama.cpp"
  tar xzf "$peers/llama.cpp/llama_cpp_python-$llama_cpp_python.tar.gz" -C "$source" --strip-components 1
  cmake -S "$source/vendor/llama.cpp" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
  ninja -C "$build" -j "$jobs" llama-server llama-bench llama-batched-bench llama-quantize
  ln -sfn "$build/bin" "$peers/llama.cpp/bin"
}

# export OUT FORMAT DTYPE MODEL [ADAPTER]: the whole folder appears at once.
export_model() {
  local out=$1 format=$2 dtype=$3 model=$4 adapter=${5:-}
  [ -d "$out" ] && return
  local config
  config=$(mktemp)
  printf 'model_name_or_path: %s\nexport_dir: %s\nformat: %s\ninfer_dtype: %s\n' "$model" "$out.tmp" "$format" "$dtype" >"$config"
  [ -z "$adapter" ] || printf 'adapter_name_or_path: %s\n' "$adapter" >>"$config"
  "$polylora" export "$config"
  rm "$config"
  mv "$out.tmp" "$out"
}

# FOLDER/hf → bf16.gguf, and llama.cpp's own Q8_0 and Q4_0 of it.
make_ggufs() {
  local folder=$1 type
  export_model "$folder/gguf" gguf bfloat16 "$folder/hf"
  ln -sfn gguf/model.gguf "$folder/bf16.gguf"
  for type in q8_0 q4_0; do
    [ -f "$folder/$type.gguf" ] && continue
    "$peers/llama.cpp/bin/llama-quantize" "$folder/bf16.gguf" "$folder/$type.gguf.tmp" "$type" "$jobs" >"$folder/$type.log" 2>&1 \
      || die "llama-quantize failed: $folder/$type.log"
    mv "$folder/$type.gguf.tmp" "$folder/$type.gguf"
  done
}

make_smollm2() {
  local folder="$peers/models/smollm2" adapter
  mkdir -p "$folder/lora"
  export_model "$folder/hf" safetensors bfloat16 "$PWD/$default_model"
  make_ggufs "$folder"
  [ -d "$folder/adapters" ] || bench/make_adapters.py "$folder/hf" "$folder/adapters" --count 16 --rank 16
  for adapter in "$folder"/adapters/*; do
    export_model "$folder/lora/$(basename "$adapter")" gguf-lora auto "$folder/hf" "$adapter"
  done
  export_model "$folder/gguf-f16" gguf float16 "$folder/hf"
  [ -d "$folder/openvino" ] || "$peers/venv/bin/python" bench/peers/openvino_ir.py "$folder/gguf-f16/model.gguf" "$folder/openvino"
}

make_llama_1b() {
  local folder="$peers/models/llama-1b"
  mkdir -p "$folder"
  [ -d "$folder/hf" ] || bench/make_model.py "$folder/hf"
  make_ggufs "$folder"
}

make_venv
build_llama_cpp
make_smollm2
make_llama_1b
say "ready: bench/peers/compare.py $peers"
