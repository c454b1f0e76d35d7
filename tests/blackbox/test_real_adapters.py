"""Two adapters trained by LLaMA-Factory on SmolLM2 (in ../shared, not in the repository) answer as transformers + PEFT
do: equal ids in f32 where the reference's own margin is above 0.01, equal text on the quantised default where it is
wide."""

import json
import pathlib

import pytest
from gguf_to_hf import convert
from harness import DEFAULT_MODEL, ROOT, Server

ADAPTERS = pathlib.Path(ROOT).parent / "shared" / "adapters"

pytestmark = [
    pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}"),
    pytest.mark.skipif(not (ADAPTERS / "expected.json").exists(), reason="needs the adapters of ../shared"),
]


def ask_all(model, extra):
    cases = json.loads((ADAPTERS / "expected.json").read_text())["cases"]
    modules = [f"{name}={ADAPTERS / name}" for name in ("nova-identity", "extract-json")]
    bodies = [{"model": "base" if case["adapter"] == "none" else case["adapter"], "prompt": case["prompt_ids"],
               "temperature": 0, "max_tokens": 48, "return_token_ids": True} for case in cases]
    with Server(model, "--served-model-name", "base", "--enable-lora", "--lora-modules", *modules, *extra) as server:
        return list(zip(cases, server.complete_all(bodies)))


def test_f32_ids(tmp_path):
    # The reference computed in f32 on the GGUF's weights rounded to bf16, so that is what is served here.
    model = convert(DEFAULT_MODEL, tmp_path / "hf")
    compared = 0
    for case, answer in ask_all(model, ["--dtype", "float32", "--skip-tokenizer-init"]):
        if case["min_margin"] > 0.01:
            compared += 1
            assert answer["token_ids"] == case["output_ids"], case["user"]
    assert compared >= 25


def test_f32_ids_of_the_gguf_itself():
    # Its own weights, not rounded to bf16: a wider margin decides.
    for case, answer in ask_all(DEFAULT_MODEL, ["--dtype", "float32"]):
        if case["min_margin"] > 0.05:
            assert answer["token_ids"] == case["output_ids"], case["user"]


@pytest.mark.parametrize("extra, margin, least", [(["--dtype", "bfloat16"], 0.5, 10), ([], 0.7, 8)],
                         ids=["bf16", "q4-default"])
def test_text_where_the_margin_is_wide(extra, margin, least):
    # int8 activations move logits by about 0.26 (rms) on this model, bf16 by 0.07: the q4 default needs a wider margin.
    compared = 0
    for case, answer in ask_all(DEFAULT_MODEL, extra):
        if case["min_margin"] > margin:
            compared += 1
            assert answer["text"].strip() == case["text"].strip(), case["user"]
    assert compared >= least
