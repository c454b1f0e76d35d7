"""One adapter in every kind of file that it comes in: the same tokens, logprobs and merged model."""

import array
import json
import re
import struct

import pytest
from harness import DATA, Server, read_safetensors, write_safetensors
from training import export

MODEL = DATA / "models" / "llama_plain_tied"
PEFT = DATA / "adapters" / "llama_plain_tied" / "r8_all"
RANK, ALPHA, HEAD_DIM = 8, 16, 16
GGUF_NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
              "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
              "mlp.down_proj": "ffn_down"}


def pairs():
    """(layer, module, "A" or "B", shape, row-major f32 values)"""
    pattern = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.(.+)\.lora_([AB])\.weight")
    for key, (dtype, shape, data) in read_safetensors(PEFT / "adapter_model.safetensors").items():
        layer, module, part = pattern.fullmatch(key).groups()
        assert dtype == "F32"
        yield int(layer), module, part, shape, array.array("f", data)


def rows_of(values, shape):
    return [values[r * shape[1]:(r + 1) * shape[1]] for r in range(shape[0])]


def write_respelled(folder, key):
    """PEFT's files with other keys."""
    folder.mkdir()
    tensors = {key.format(layer=layer, module=module, part=part): ("F32", shape, values.tobytes())
               for layer, module, part, shape, values in pairs()}
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text((PEFT / "adapter_config.json").read_text())
    return folder


def write_mlx(folder):
    """As mlx_lm.lora writes it: transposed, with a scale of its own."""
    folder.mkdir()
    tensors = {}
    for layer, module, part, shape, values in pairs():
        columns = b"".join(values[c::shape[1]].tobytes() for c in range(shape[1]))
        tensors[f"model.layers.{layer}.{module}.lora_{part.lower()}"] = ("F32", shape[::-1], columns)
    write_safetensors(folder / "adapters.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps({
        "fine_tune_type": "lora", "num_layers": 16, "model": "llama_plain_tied", "train": True, "seed": 0,
        "lora_parameters": {"rank": RANK, "dropout": 0.0, "scale": ALPHA / RANK}}))
    return folder


def permuted(rows):
    """llama.cpp's LlamaModel.permute on the rows of B."""
    half = HEAD_DIM // 2
    return [rows[head + i + part * half] for head in range(0, len(rows), HEAD_DIM)
            for i in range(half) for part in (0, 1)]


def write_gguf(path):
    """As llama.cpp's convert_lora_to_gguf.py writes it."""
    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    fields = [text("general.architecture") + struct.pack("<I", 8) + text("llama"),
              text("general.type") + struct.pack("<I", 8) + text("adapter"),
              text("adapter.type") + struct.pack("<I", 8) + text("lora"),
              text("general.name") + struct.pack("<I", 8) + text("r8_all"),
              text("adapter.lora.alpha") + struct.pack("<If", 6, ALPHA),
              text("general.quantization_version") + struct.pack("<II", 4, 2)]
    infos, data = [], b""
    for layer, module, part, shape, values in pairs():
        rows = rows_of(values, shape)
        if part == "B" and module in ("self_attn.q_proj", "self_attn.k_proj"):
            rows = permuted(rows)
        name = f"blk.{layer}.{GGUF_NAMES[module]}.weight.lora_{part.lower()}"
        infos.append(text(name) + struct.pack("<IQQIQ", 2, shape[1], shape[0], 0, len(data)))
        data += b"".join(row.tobytes() for row in rows)
        data += bytes(-len(data) % 32)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(fields)) + b"".join(fields + infos)
    path.write_bytes(header + bytes(-len(header) % 32) + data)
    return path


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """{kind: path}"""
    folder = tmp_path_factory.mktemp("adapter_formats")
    export(MODEL, folder / "exported", f"adapter_name_or_path={PEFT}", "format=gguf-lora")
    state_dict = "_orig_mod.base_model.model.model.layers.{layer}.{module}.lora_{part}.default.weight"
    tower = "base_model.model.model.language_model.layers.{layer}.{module}.lora_{part}.weight"
    return {"peft": PEFT, "state-dict": write_respelled(folder / "state-dict", state_dict),
            "tower": write_respelled(folder / "tower", tower), "mlx": write_mlx(folder / "mlx"),
            "llama-cpp": write_gguf(folder / "r8_all.gguf"), "exported": folder / "exported" / "adapter.gguf"}


def body(name):
    return {"model": name, "prompt": [1, 17, 99, 203, 42, 7], "max_tokens": 16, "temperature": 0, "ignore_eos": True,
            "logprobs": 8, "prompt_logprobs": 0, "return_token_ids": True, "return_tokens_as_token_ids": True}


def test_every_kind_answers_alike_in_one_batch_and_loaded_later(adapters):
    flags = ["--dtype", "float32", "--skip-tokenizer-init", "--served-model-name", "base", "--enable-lora",
             "--lora-modules", *(f"{kind}={path}" for kind, path in adapters.items())]
    with Server(MODEL, *flags) as server:
        base = server.complete(**body("base"))
        expected, *others = server.complete_all([body(kind) for kind in adapters])
        for kind, path in adapters.items():
            server.post("/v1/load_lora_adapter", lora_name=f"{kind}-later", lora_path=str(path))
        others += server.complete_all([body(f"{kind}-later") for kind in adapters])
    assert expected["token_ids"] != base["token_ids"], "the adapter must matter, or this test says nothing"
    for other in others:
        assert other["token_ids"] == expected["token_ids"]
        assert other["logprobs"] == expected["logprobs"]
        assert other["prompt_logprobs"] == expected["prompt_logprobs"]


def test_every_kind_merges_into_the_same_model(adapters, tmp_path):
    merged = {}
    for kind, path in adapters.items():
        export(MODEL, tmp_path / kind, f"adapter_name_or_path={path}", "infer_dtype=float32")
        merged[kind] = read_safetensors(tmp_path / kind / "model.safetensors")
    assert merged["peft"] != read_safetensors(MODEL / "model.safetensors")
    for kind, tensors in merged.items():
        assert tensors == merged["peft"], kind


def test_what_is_no_adapter_is_refused_with_a_line_that_says_why(adapters, tmp_path):
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "adapter_config.json").write_text("{}")
    (pickled / "adapter_model.bin").write_bytes(b"PK")
    (tmp_path / "text.gguf").write_text("not a GGUF file")
    with Server(MODEL, "--dtype", "float32", "--skip-tokenizer-init", "--enable-lora") as server:
        for path, part in [(pickled, "weights_only=True"), (tmp_path / "text.gguf", "GGUF")]:
            status, answer = server.request("POST", "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": str(path)})
            assert status == 400 and part in answer["error"]["message"], answer
        assert server.complete(**{**body(server.request("GET", "/v1/models")[1]["data"][0]["id"])})["token_ids"]
