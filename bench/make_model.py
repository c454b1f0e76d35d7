#!/usr/bin/env python3
"""Writes a model folder of Llama-3.2-1B's shapes (or others) with random bf16 weights and, on request, an adapter for
it: something to measure loading, training and export with. Standard library only.

  bench/make_model.py OUT [--layers 16 --hidden 2048 --intermediate 8192 --heads 32 --kv-heads 8 --vocab 128256]
  bench/make_model.py OUT --adapter OUT/adapter --rank 16
"""

import argparse
import json
import os
import pathlib
import random
import struct

BLOCK = 1 << 22  # values; written again and again, from other offsets


def random_bf16(count, seed):
    """Magnitudes from 2^-7 to 2^-5, either sign: about what trained weights look like."""
    generator = random.Random(seed)
    values = bytearray(2 * count)
    values[0::2] = generator.randbytes(count)
    values[1::2] = generator.randbytes(count).translate(bytes(0x3C if i < 128 else 0xBC for i in range(256)))
    return bytes(values)


def write_safetensors(path, tensors, seed):
    """tensors: [(name, shape, constant or None)], all bf16."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in tensors:
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = random_bf16(BLOCK, seed)
    shift = 0
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, _, constant in tensors:
            begin, end = header[name]["data_offsets"]
            left = end - begin
            if constant is not None:
                file.write(constant * (left // 2))
                left = 0
            while left > 0:
                shift = (shift + 2 * 1009) % (len(block) // 2)
                piece = block[shift : shift + left]
                file.write(piece)
                left -= len(piece)


def linear_shapes(a):
    kv = a.kv_heads * (a.hidden // a.heads)
    return {
        "self_attn.q_proj": (a.hidden, a.hidden),
        "self_attn.k_proj": (kv, a.hidden),
        "self_attn.v_proj": (kv, a.hidden),
        "self_attn.o_proj": (a.hidden, a.hidden),
        "mlp.gate_proj": (a.intermediate, a.hidden),
        "mlp.up_proj": (a.intermediate, a.hidden),
        "mlp.down_proj": (a.hidden, a.intermediate),
    }


def write_model(a):
    one = struct.pack("<H", 0x3F80)
    tensors = [("model.embed_tokens.weight", [a.vocab, a.hidden], None)]
    for layer in range(a.layers):
        prefix = f"model.layers.{layer}."
        tensors += [(prefix + name + ".weight", list(shape), None) for name, shape in linear_shapes(a).items()]
        tensors += [(prefix + name, [a.hidden], one) for name in ("input_layernorm.weight", "post_attention_layernorm.weight")]
    tensors.append(("model.norm.weight", [a.hidden], one))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": a.hidden,
        "intermediate_size": a.intermediate,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "vocab_size": a.vocab,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    out = pathlib.Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=2))
    write_safetensors(out / "model.safetensors", tensors, seed=1)


def write_adapter(folder, a, seed=2):
    """An adapter on all seven projections of the shapes `a`; lora_alpha is twice the rank."""
    tensors = []
    for layer in range(a.layers):
        for name, (rows, cols) in linear_shapes(a).items():
            prefix = f"base_model.model.model.layers.{layer}.{name}."
            tensors += [(prefix + "lora_A.weight", [a.rank, cols], None), (prefix + "lora_B.weight", [rows, a.rank], None)]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": a.rank,
        "lora_alpha": 2 * a.rank,
        "target_modules": [name.split(".")[-1] for name in linear_shapes(a)],
        "base_model_name_or_path": os.path.basename(a.out),
        "bias": "none",
    }
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    write_safetensors(folder / "adapter_model.safetensors", tensors, seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    for name, value in {"layers": 16, "hidden": 2048, "intermediate": 8192, "heads": 32, "kv-heads": 8, "vocab": 128256, "rank": 16}.items():
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--adapter", help="write an adapter for these shapes into this folder")
    a = parser.parse_args()
    write_model(a)
    if a.adapter:
        write_adapter(a.adapter, a)


if __name__ == "__main__":
    main()
