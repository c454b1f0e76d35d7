"""A base in any quantised format computes what the f32 model that it stands for computes, with and without an adapter."""

import json
import math

import pytest
from harness import DEFAULT_MODEL, Server
from quantised import KINDS, write_gguf_models, write_models, write_small_adapter
from training import SHORT, binary, copy_tokenizer, export, losses, settings, write_datasets

PROMPTS = [[1, 17, 230, 9, 44, 301, 5], [3, 3, 90, 128, 255, 12, 350, 77, 41]]
EXACT = 2e-3    # both in f32: what is left is the order of sums
NEAREST = 0.15  # 8-bit activations, scales in f16, codes that had to be rounded once more
GGUF_KINDS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]


def answers(model, adapter, *flags):
    """Log-probabilities of every prompt token, of the base and with the adapter; and what the server said at start."""
    with Server(model, "--skip-tokenizer-init", "--served-model-name", "base", "--enable-lora", "--lora-modules",
                f"a={adapter}", *flags) as server:
        found = []
        for name in ("base", "a"):
            for prompt in PROMPTS:
                choice = server.complete(model=name, prompt=prompt, max_tokens=1, temperature=0, prompt_logprobs=0,
                                         return_tokens_as_token_ids=True)
                found += [entry[str(token)]["logprob"]
                          for token, entry in zip(prompt[1:], choice["prompt_logprobs"][1:])]
        return found, "".join(server.log)


def check(quantised, wide, tmp_path, *flags):
    adapter = write_small_adapter(tmp_path / "adapter")
    expected, _ = answers(wide, adapter, "--dtype", "float32")
    assert all(math.isfinite(x) for x in expected)
    exact, _ = answers(quantised, adapter, "--dtype", "float32")
    nearest, log = answers(quantised, adapter, *flags)
    assert max(abs(a - b) for a, b in zip(exact, expected)) < EXACT
    assert sum(abs(a - b) for a, b in zip(nearest, expected)) / len(expected) < NEAREST
    return log


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_hugging_face_checkpoint(kind, tmp_path):
    log = check(*write_models(tmp_path, kind), tmp_path)
    narrow = "4" in kind and "act-order" not in kind or kind in ("awq", "gptq2", "gptq3")
    assert ("as q4" in log) == narrow and ("as q8" in log) != narrow, log


@pytest.mark.parametrize("kind", GGUF_KINDS)
def test_a_gguf_file(kind, tmp_path):
    # q4 is as wide as 2 and 3 bits need, but random blocks, whose halves differ by any factor, lose much in it.
    flags = ["--quantization", "q8"] if kind in ("Q2_K", "Q3_K") else []
    log = check(*write_gguf_models(tmp_path, kind), tmp_path, *flags)
    assert f"{kind} as q" in log, log


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K"])
def test_up_to_four_bits_are_held_in_four(kind, tmp_path):
    file, _ = write_gguf_models(tmp_path, kind)
    with Server(file, "--skip-tokenizer-init") as server:
        assert f"{kind} as q4" in "".join(server.log)


def test_an_unknown_method_is_refused_by_name(tmp_path):
    folder, _ = write_models(tmp_path, "int8")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    said = binary("serve", folder, "--skip-tokenizer-init", expect=1).stderr
    assert "'bitsandbytes' is not supported" in said and "--quantization q4" in said


def test_merging_into_a_quantised_base_is_refused(tmp_path):
    folder, _ = write_models(tmp_path, "gptq4")
    adapter = write_small_adapter(tmp_path / "adapter")
    (tmp_path / "export.yaml").write_text(f"model_name_or_path: {folder}\nadapter_name_or_path: {adapter}\n"
                                          f"export_dir: {tmp_path / 'out'}\n")
    said = binary("export", tmp_path / "export.yaml", expect=1).stderr
    assert "quantised (gptq)" in said and not (tmp_path / "out").exists()


@pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason="the default model, whose vocabulary this needs, is absent")
@pytest.mark.parametrize("kind", ["gptq4-act-order", "awq", "int8-asym", "fp8-block"])
def test_training_on_a_quantised_base(kind, tmp_path):
    """The base stays as it is; the loss of four updates on the same records falls as it does on the f32 base."""
    export(DEFAULT_MODEL, tmp_path / "default")
    quantised, wide = write_models(tmp_path, kind, vocab=49152)
    write_datasets(tmp_path)
    (tmp_path / "short.yaml").write_text(SHORT)
    found = {}
    for name, model, more in (("f32", wide, {}), ("stored", quantised, {}), ("packed", quantised, {"quantization_bit": 8})):
        copy_tokenizer(tmp_path / "default", model)
        out = tmp_path / f"out-{name}"
        said = binary("train", tmp_path / "short.yaml", *settings(
            model_name_or_path=model, dataset_dir=tmp_path, output_dir=out, template="chatml", **more)).stderr
        assert name == "f32" or "base weights: " in said
        found[name] = list(losses(out).values())
    assert len(found["f32"]) == 4 and found["f32"][-1] < found["f32"][0]
    for name in ("stored", "packed"):
        assert max(abs(a - b) for a, b in zip(found[name], found["f32"])) < 0.05, found
