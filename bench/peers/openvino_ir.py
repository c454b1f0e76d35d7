#!/usr/bin/env python3
"""Writes a GGUF model of type F16 as OpenVINO IR that LoRA adapters can be applied to.

  openvino_ir.py MODEL.gguf OUT_FOLDER

OpenVINO GenAI reads GGUF and saves what it built, but names its matrix products MatMul_1, MatMul_2, …, while it looks
an adapter's target up by the name that an export from PyTorch gives. So the products are renamed after their weights.
"""

import pathlib
import re
import shutil
import sys
import tempfile

import openvino
import openvino_genai


def weight_name(node):
    """The name of the constant that feeds the second input, through conversions."""
    node = node.input_value(1).get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.get_friendly_name()


def name_products(model):
    named = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        match = re.fullmatch(r"model\.layers\[(\d+)\]\.(\w+\.\w+)\.weight", weight_name(node))
        if match:
            node.set_friendly_name(f"__module.model.layers.{match[1]}.{match[2]}/ov_ext::linear/MatMul")
            named += 1
    return named


def main():
    gguf, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        copy = pathlib.Path(work) / "model.gguf"
        copy.symlink_to(gguf.resolve())
        openvino_genai.LLMPipeline(str(copy), "CPU", enable_save_ov_model=True)
        model = openvino.Core().read_model(pathlib.Path(work) / "openvino_model.xml")
        named = name_products(model)
        if not named:
            raise SystemExit(f"{gguf}: no matrix product has a weight of a known name")
        openvino.save_model(model, out / "openvino_model.xml", compress_to_fp16=False)
        for path in pathlib.Path(work).glob("openvino_*tokenizer.*"):
            shutil.move(path, out / path.name)
    print(f"{out}: {named} products named")


if __name__ == "__main__":
    main()
