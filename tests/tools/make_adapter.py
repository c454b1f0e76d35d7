#!/usr/bin/env python3
"""Writes a small random PEFT adapter for SmolLM2-135M: LoRA on q_proj and v_proj. Standard library only."""

import argparse
import array
import json
import pathlib
import random
import struct

LAYERS, HIDDEN = 30, 576
MODULES = {"self_attn.q_proj": 576, "self_attn.v_proj": 192}  # output widths; the input is HIDDEN wide


def matrix(rng, rows, cols, std):
    return [rows, cols], array.array("f", (rng.gauss(0.0, std) for _ in range(rows * cols))).tobytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--std", type=float, default=0.12, help="of B; larger changes the answers more")
    flags = parser.parse_args()

    rng = random.Random(flags.seed)
    header, blobs, offset = {}, [], 0
    for layer in range(LAYERS):
        for module, width in MODULES.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            for name, (shape, data) in {
                "lora_A": matrix(rng, flags.rank, HIDDEN, HIDDEN ** -0.5),
                "lora_B": matrix(rng, width, flags.rank, flags.std),
            }.items():
                header[f"{prefix}.{name}.weight"] = {
                    "dtype": "F32", "shape": shape, "data_offsets": [offset, offset + len(data)]}
                blobs.append(data)
                offset += len(data)

    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    flags.folder.mkdir(parents=True, exist_ok=True)
    (flags.folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    (flags.folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "r": flags.rank, "lora_alpha": 2 * flags.rank, "target_modules": ["q_proj", "v_proj"], "bias": "none"}, indent=2))


if __name__ == "__main__":
    main()
