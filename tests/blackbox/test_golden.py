"""transformers + PEFT in f32 are the reference: every Llama-family checkpoint and adapter of tests/data, all adapters
of a model loaded at once and asked concurrently."""

import json
import math
import struct

import pytest
from harness import DATA, Server, read_safetensors

MODELS = sorted(path.name for path in (DATA / "models").glob("llama_*"))
LOGPROB_TOLERANCE = 2e-4  # the strict bound of the reference's own README; it allows 1e-3
SUM_TOLERANCE = 2e-3


def log_softmax(logits):
    top = max(logits)
    total = math.log(sum(math.exp(x - top) for x in logits)) + top
    return [x - total for x in logits]


def token(key):
    return int(key.removeprefix("token_id:"))


def references(model):
    """(adapter or None, case, expected log-probabilities of the next token)"""
    for path in sorted((DATA / "refs" / model).glob("*.json")):
        adapter = path.stem
        if adapter != "none" and not (DATA / "adapters" / model / adapter).is_dir():
            continue  # kinds of adapters that are refused so far; test_adapter_refusal covers them
        tensors = read_safetensors(path.with_suffix(".safetensors"))
        for case in json.loads(path.read_text())["cases"]:
            _, shape, raw = tensors[f"case{case['case']:02d}.last_logits"]
            yield adapter, case, log_softmax(struct.unpack(f"<{shape[0]}f", raw))


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_greedy_ids_of_every_adapter(model):
    adapters = sorted((DATA / "adapters" / model).iterdir())
    cases = list(references(model))
    assert len(cases) >= 6 * (1 + len(adapters)) and adapters
    bodies = [{
        "model": "base" if adapter == "none" else adapter, "prompt": case["input_ids"], "max_tokens": 24,
        "temperature": 0, "ignore_eos": True, "logprobs": 512, "prompt_logprobs": 0, "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    } for adapter, case, _ in cases]
    flags = ["--dtype", "float32", "--skip-tokenizer-init", "--max-logprobs", 512, "--served-model-name", "base",
             "--enable-lora", "--lora-modules", *(f"{path.name}={path}" for path in adapters)]
    with Server(DATA / "models" / model, *flags) as server:
        answers = server.complete_all(bodies, workers=len(bodies))
    for (adapter, case, expected), answer in zip(cases, answers):
        where = (model, adapter, case["case"])
        assert answer["token_ids"] == case["greedy_ids"], where
        first = {token(key): value for key, value in answer["logprobs"]["top_logprobs"][0].items()}
        assert len(first) == len(expected), where
        worst = max(abs(first[i] - expected[i]) for i in first)
        assert worst <= LOGPROB_TOLERANCE, (where, worst)
        total = sum(entry[str(i)]["logprob"]
                    for i, entry in zip(case["input_ids"][1:], answer["prompt_logprobs"][1:]))
        assert abs(total - case["sum_logprobs"]) <= SUM_TOLERANCE, where
