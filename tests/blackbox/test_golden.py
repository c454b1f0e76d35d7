"""transformers + PEFT in f32 are the reference: every checkpoint and adapter, all adapters of a model loaded at once
and asked concurrently. tests/data holds some of each architecture; where ../shared/golden exists, all of it is used."""

import json
import math
import struct
import subprocess

import pytest
from harness import BINARY, DATA, ROOT, Server, read_safetensors

SHARED = ROOT.parent / "shared" / "golden"
GOLDEN = SHARED if SHARED.is_dir() else DATA
MODELS = sorted(path.name for path in (GOLDEN / "models").iterdir() if path.is_dir())
LOGPROB_TOLERANCE = 2e-4  # the strict bound of the reference's own README; it allows 1e-3
SUM_TOLERANCE = 2e-3
NEW_TOKENS = 24


def log_softmax(logits):
    top = max(logits)
    total = math.log(sum(math.exp(x - top) for x in logits)) + top
    return [x - total for x in logits]


def token(key):
    return int(key.removeprefix("token_id:"))


def adapters_of(model):
    folder = GOLDEN / "adapters" / model
    return sorted(path for path in folder.iterdir() if path.is_dir())


def references(model):
    """(adapter or "none", case, expected log-probabilities of the next token)"""
    for adapter in ["none", *(path.name for path in adapters_of(model))]:
        path = GOLDEN / "refs" / model / f"{adapter}.json"
        tensors = read_safetensors(path.with_suffix(".safetensors"))
        for case in json.loads(path.read_text())["cases"]:
            _, shape, raw = tensors[f"case{case['case']:02d}.last_logits"]
            yield adapter, case, log_softmax(struct.unpack(f"<{shape[0]}f", raw))


def contexts(model):
    """(--max-model-len or None, which lengths it is right for). transformers takes longrope's factors by the present
    length of a sequence; polylora by the served context, for all sequences alike."""
    config = json.loads((GOLDEN / "models" / model / "config.json").read_text())
    if "short_factor" not in (config.get("rope_scaling") or {}):
        return [(None, lambda length: True)]
    original = config["original_max_position_embeddings"]
    return [(original, lambda length: length + NEW_TOKENS <= original), (None, lambda length: length > original)]


def check(model, max_model_len, cases):
    bodies = [{
        "model": "base" if adapter == "none" else adapter, "prompt": case["input_ids"], "max_tokens": NEW_TOKENS,
        "temperature": 0, "ignore_eos": True, "logprobs": 512, "prompt_logprobs": 0, "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    } for adapter, case, _ in cases]
    flags = ["--dtype", "float32", "--skip-tokenizer-init", "--max-logprobs", 512, "--served-model-name", "base",
             "--enable-lora", "--lora-modules", *(f"{path.name}={path}" for path in adapters_of(model))]
    if max_model_len is not None:
        flags += ["--max-model-len", max_model_len]
    with Server(GOLDEN / "models" / model, *flags) as server:
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


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_greedy_ids_of_every_adapter(model):
    cases = list(references(model))
    assert len(cases) >= 6 * (1 + len(adapters_of(model))) and adapters_of(model)
    checked = 0
    for max_model_len, fits in contexts(model):
        chosen = [case for case in cases if fits(len(case[1]["input_ids"]))]
        assert chosen
        check(model, max_model_len, chosen)
        checked += len(chosen)
    assert checked == len(cases) or len(contexts(model)) > 1


def test_an_unknown_architecture_is_refused_with_the_known_ones(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_neox"}))
    result = subprocess.run([BINARY, "serve", tmp_path, "--skip-tokenizer-init"], capture_output=True, text=True,
                            timeout=60)
    assert result.returncode == 1
    for word in ["gpt_neox", "known:", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "mixtral", "qwen3_moe"]:
        assert word in result.stderr, result.stderr
