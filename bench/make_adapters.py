#!/usr/bin/env python3
"""Writes random bf16 LoRA adapters, on all seven projections, for a Llama-shaped model folder. Standard library only.

  bench/make_adapters.py MODEL_FOLDER OUT --count 16 --rank 16        # OUT/a00 … OUT/a15
"""

import argparse
import json
import pathlib

from make_model import write_adapter


def shapes_of(folder, rank):
    config = json.loads((folder / "config.json").read_text())
    return argparse.Namespace(
        out=str(folder), rank=rank, layers=config["num_hidden_layers"], hidden=config["hidden_size"],
        intermediate=config["intermediate_size"], heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    flags = parser.parse_args()
    shapes = shapes_of(flags.model, flags.rank)
    for i in range(flags.count):
        write_adapter(flags.out / f"a{i:02}", shapes, seed=100 + i)


if __name__ == "__main__":
    main()
