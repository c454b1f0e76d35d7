"""Two adapters trained by LLaMA-Factory on SmolLM2 (in ../shared, not in the repository) answer as transformers + PEFT
do: equal ids in f32 where the reference's own margin is above 0.01, equal text on the quantised default where it is
wide."""

import json
import pathlib

import pytest
from harness import DEFAULT_MODEL, ROOT, Server

ADAPTERS = pathlib.Path(ROOT).parent / "shared" / "adapters"

pytestmark = [
    pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}"),
    pytest.mark.skipif(not (ADAPTERS / "expected.json").exists(), reason="needs the adapters of ../shared"),
]


def ask_all(extra):
    cases = json.loads((ADAPTERS / "expected.json").read_text())["cases"]
    modules = [f"{name}={ADAPTERS / name}" for name in ("nova-identity", "extract-json")]
    bodies = [{"model": "base" if case["adapter"] == "none" else case["adapter"], "prompt": case["prompt_ids"],
               "temperature": 0, "max_tokens": 48, "return_token_ids": True} for case in cases]
    with Server(DEFAULT_MODEL, "--served-model-name", "base", "--enable-lora", "--lora-modules", *modules,
                *extra) as server:
        return list(zip(cases, server.complete_all(bodies)))


def test_f32_ids():
    # The reference computed in f32 on weights rounded to bf16; rounding moves logits by less than the margin asked for.
    compared = 0
    for case, answer in ask_all(["--dtype", "float32"]):
        if case["min_margin"] > 0.05:
            compared += 1
            assert answer["token_ids"] == case["output_ids"], case["user"]
    assert compared >= 15


def test_quantised_default_text():
    compared = 0
    for case, answer in ask_all([]):
        if case["min_margin"] > 0.5:
            compared += 1
            assert answer["text"].strip() == case["text"].strip(), case["user"]
    assert compared >= 8
