"""Writes the default GGUF as a bf16 Hugging Face folder: what the real adapters' references were computed on.
An implementation of its own, on purpose: it also checks the C++ reader's idea of GGUF blocks and of the q/k order."""

import json
import pathlib
import struct

import numpy as np
from harness import write_safetensors

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def scalar(self, code):
        value, = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def string(self):
        length = self.scalar("Q")
        self.at += length
        return bytes(self.data[self.at - length:self.at]).decode("utf-8", "replace")

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind == 9:
            inner, count = self.scalar("I"), self.scalar("Q")
            return [self.value(inner) for _ in range(count)]
        return self.scalar(SCALARS[kind])


def dequantise(kind, raw, rows, cols):
    if kind == 0:
        return raw.view(np.float32).reshape(rows, cols)
    if kind == 8:  # Q8_0
        blocks = raw.reshape(-1, 34)
        scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        return (blocks[:, 2:].view(np.int8).astype(np.float32) * scale).reshape(rows, cols)
    assert kind == 3, kind  # Q4_1
    blocks = raw.reshape(-1, 20)
    scale_min = blocks[:, :4].copy().view(np.float16).astype(np.float32)
    codes = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1).astype(np.float32)
    return (codes * scale_min[:, :1] + scale_min[:, 1:]).reshape(rows, cols)


def to_bf16(values):
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def hf_name(name):
    fixed = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if name in fixed:
        return fixed[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.weight"


def convert(gguf_path, folder):
    data = np.memmap(gguf_path, np.uint8, "r")
    reader = Reader(data)
    reader.at = 8
    tensor_count, value_count = reader.scalar("Q"), reader.scalar("Q")
    meta = {}
    for _ in range(value_count):
        key = reader.string()
        meta[key] = reader.value(reader.scalar("I"))
    infos = []
    for _ in range(tensor_count):
        name, dimensions = reader.string(), reader.scalar("I")
        shape = [reader.scalar("Q") for _ in range(dimensions)][::-1]
        infos.append((name, shape, reader.scalar("I"), reader.scalar("Q")))
    start = (reader.at + 31) // 32 * 32

    heads, kv_heads = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    tensors = {}
    for name, shape, kind, offset in infos:
        rows, cols = (shape if len(shape) == 2 else (1, shape[0]))
        size = rows * {0: cols * 4, 8: cols // 32 * 34, 3: cols // 32 * 20}[kind]
        values = dequantise(kind, np.array(data[start + offset:start + offset + size]), rows, cols)
        if ".attn_q." in name or ".attn_k." in name:  # GGUF interleaves the two rotary halves of a head
            count = heads if ".attn_q." in name else kv_heads
            values = values.reshape(count, rows // count // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)
        tensors[hf_name(name)] = ("BF16", shape, to_bf16(values))

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": meta["llama.embedding_length"], "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"], "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "vocab_size": len(meta["tokenizer.ggml.tokens"]), "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": meta["llama.attention.layer_norm_rms_epsilon"], "rope_theta": meta["llama.rope.freq_base"],
        "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2}))
    return folder
