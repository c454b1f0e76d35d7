"""`polylora train`, `export` and `verify` as a user runs them: files, resuming, errors, variants, and what is served."""

import json
import math
import random
import shutil
import signal
import struct
import subprocess
import time

import openai
import pytest
from harness import BINARY, DEFAULT_MODEL, SMOLLM2_LAYERS, SMOLLM2_MODULES, Server, read_safetensors, write_safetensors
from training import (EXAMPLES, LLAMA3_LORA_SFT, SHORT, binary, export, log_lines, losses, settings, write_datasets,
                      write_huge_model, write_tiny_model)

pytestmark = pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}")

TINY = {"max_steps": 60, "save_steps": 5, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "dataset": "alpaca_en_demo", "learning_rate": 2e-3}


class Workshop:
    """Data, models and YAML files shared by all tests of this file."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "data").mkdir()
        self.data = write_datasets(folder / "data")
        self.sft, self.short = folder / "llama3_lora_sft.yaml", folder / "short.yaml"
        self.sft.write_text(LLAMA3_LORA_SFT)
        self.short.write_text(SHORT)
        self.base = folder / "base"  # the default model as a Hugging Face folder
        export(DEFAULT_MODEL, self.base)
        self.tiny = write_tiny_model(folder / "tiny", self.base)

    def arguments(self, output, model=DEFAULT_MODEL, yaml=None, **keys):
        return ["train", yaml or self.short,
                *settings(model_name_or_path=model, dataset_dir=self.data, output_dir=output, **keys)]

    def train(self, output, expect=0, **more):
        return binary(*self.arguments(output, **more), expect=expect)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Workshop(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def learned(shop):
    """An adapter that has learnt its four records well enough to change greedy answers."""
    output = shop.folder / "learned"
    shop.train(output, max_steps=12, learning_rate=2e-3)
    return output


def chat(server, model, question):
    answer = server.post("/v1/chat/completions", model=model, messages=[{"role": "user", "content": question}],
                         temperature=0, max_tokens=24)
    return answer["choices"][0]["message"]["content"]


# --- the example of the peer, and what it leaves behind

@pytest.fixture(scope="module")
def sft(shop):
    output = shop.folder / "sft"
    shop.train(output, yaml=shop.sft, template="smollm2", max_steps=3, max_samples=20, logging_steps=1)
    return output


def test_peers_example_writes_all_files(sft):
    log = log_lines(sft)
    assert [line["current_steps"] for line in log if "loss" in line] == [1, 2, 3]
    assert log[0]["lr"] == 0.0 and log[1]["lr"] == pytest.approx(1e-4)
    assert {"current_steps", "total_steps", "loss", "lr", "epoch", "percentage", "elapsed_time",
            "remaining_time"} <= log[0].keys()
    assert None not in log[0].values()

    state = json.loads((sft / "trainer_state.json").read_text())
    assert state["global_step"] == state["max_steps"] == 3
    assert [entry["loss"] for entry in state["log_history"] if "loss" in entry] == list(losses(sft).values())
    for name in ("all_results.json", "train_results.json"):
        results = json.loads((sft / name).read_text())
        assert results["train_loss"] == pytest.approx(sum(losses(sft).values()) / 3)
        assert {"epoch", "total_flos", "train_runtime", "train_samples_per_second", "train_steps_per_second"} <= \
            results.keys()

    picture = (sft / "training_loss.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and picture[12:16] == b"IHDR" and b"IEND" in picture[-12:]
    assert min(struct.unpack(">II", picture[16:24])) >= 300
    card = (sft / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft") and "identity, alpaca_en_demo" in card
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        json.loads((sft / name).read_text())
    assert "<|im_start|>" in (sft / "chat_template.jinja").read_text()
    checkpoint = sft / "checkpoint-3"
    assert (checkpoint / "adapter_model.safetensors").read_bytes() == (sft / "adapter_model.safetensors").read_bytes()
    assert (checkpoint / "optimizer.safetensors").exists() and (checkpoint / "trainer_state.json").exists()


def test_peers_example_writes_a_peft_adapter(sft):
    config = json.loads((sft / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["r"], config["lora_alpha"]) == ("LORA", "CAUSAL_LM", 8, 16)
    assert sorted(config["target_modules"]) == sorted(module.split(".")[1] for module in SMOLLM2_MODULES)
    assert config["inference_mode"] is True and config["bias"] == "none" and config["modules_to_save"] is None
    tensors = read_safetensors(sft / "adapter_model.safetensors")
    expected = {}
    for layer in range(SMOLLM2_LAYERS):
        for module, (rows, cols) in SMOLLM2_MODULES.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            expected[f"{prefix}.lora_A.weight"] = ("F32", [8, cols])
            expected[f"{prefix}.lora_B.weight"] = ("F32", [rows, 8])
    assert {name: (dtype, list(shape)) for name, (dtype, shape, _) in tensors.items()} == expected
    assert all(any(data) for name, (_, _, data) in tensors.items() if "lora_B" in name)


def test_trained_adapter_answers_the_openai_client(sft):
    with Server(DEFAULT_MODEL, "--enable-lora", "--lora-modules", f"sft={sft}") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
        answer = client.chat.completions.create(model="sft", messages=[{"role": "user", "content": "Who are you?"}],
                                                max_tokens=16, temperature=0)
    assert answer.model == "sft" and answer.usage.completion_tokens > 0
    assert answer.choices[0].message.content.strip()


# --- interrupted runs

def run_until(arguments, output, update, end):
    """Starts a run, ends it by signal `end` once it has logged `update`; (exit code, updates logged by then). On a busy
    machine this process may sleep through the rest of the run: then it starts again."""
    for _ in range(5):
        process = subprocess.Popen([str(BINARY), *map(str, arguments)], stderr=subprocess.DEVNULL,
                                   stdin=subprocess.DEVNULL)
        while len(losses(output)) < update and process.poll() is None:
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.005))
        process.send_signal(end)
        code = process.wait(timeout=120)
        if code != 0:
            return code, len(losses(output))
        shutil.rmtree(output)
    raise AssertionError("five runs ended before they could be stopped")


@pytest.mark.parametrize("more", [{}, {"lora_dropout": 0.1, "neftune_noise_alpha": 5}, {"bf16": False}],
                         ids=["plain", "dropout-and-noise", "f32"])
def test_killed_run_resumes_bit_for_bit(shop, tmp_path, more):
    keys = {"model": shop.tiny, **TINY, **more}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shop.train(whole, **keys)
    update = random.randrange(6, 50)
    code, _ = run_until(shop.arguments(killed, **keys), killed, update, signal.SIGKILL)
    assert code == -signal.SIGKILL
    resumed = shop.train(killed, **keys)
    assert "resuming from" in resumed.stderr
    assert losses(whole).keys() == set(range(1, 61))
    assert losses(killed) == losses(whole), f"killed after update {update}"
    assert [line["current_steps"] for line in log_lines(killed) if "loss" in line] == list(range(1, 61))
    assert (killed / "adapter_model.safetensors").read_bytes() == (whole / "adapter_model.safetensors").read_bytes()


def test_a_log_that_spans_the_kill_is_the_same(shop, tmp_path):
    """Checkpoints every 5 updates, logs every 3: the mean that is logged next includes updates of before the kill."""
    keys = {"model": shop.tiny, **TINY, "logging_steps": 3}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shop.train(whole, **keys)
    assert run_until(shop.arguments(killed, **keys), killed, random.randrange(3, 15), signal.SIGKILL)[0] == -signal.SIGKILL
    shop.train(killed, **keys)
    assert losses(killed) == losses(whole)
    results = [json.loads((folder / "train_results.json").read_text())["train_loss"] for folder in (whole, killed)]
    assert results[0] == results[1]


def test_killed_run_on_the_real_model(shop, tmp_path):
    keys = {"max_steps": 4, "save_steps": 1, "per_device_train_batch_size": 2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shop.train(whole, **keys)
    assert run_until(shop.arguments(killed, **keys), killed, 2, signal.SIGKILL)[0] == -signal.SIGKILL
    shop.train(killed, **keys)
    assert losses(killed) == losses(whole)
    assert (killed / "adapter_model.safetensors").read_bytes() == (whole / "adapter_model.safetensors").read_bytes()


def test_ctrl_c_leaves_a_checkpoint(shop, tmp_path):
    keys = {"model": shop.tiny, **TINY, "save_steps": 1000}
    output = tmp_path / "run"
    code, logged = run_until(shop.arguments(output, **keys), output, 3, signal.SIGINT)
    assert code == 130
    checkpoints = list(output.glob("checkpoint-*"))
    assert [path.name for path in checkpoints] == [f"checkpoint-{logged}"] and logged < 60
    shop.train(output, resume_from_checkpoint=checkpoints[0], **keys)
    assert losses(output).keys() == set(range(1, 61)) and (output / "adapter_model.safetensors").exists()


# --- evaluation

def test_best_checkpoint_and_early_stop(shop, tmp_path):
    output = tmp_path / "run"
    # A rate at which nothing improves: the first evaluation stays the best, the third ends the run.
    done = shop.train(output, model=shop.tiny, **TINY | {
        "learning_rate": 1e-13, "val_size": 0.2, "eval_strategy": "steps", "eval_steps": 5, "save_total_limit": 2,
        "load_best_model_at_end": True, "early_stopping_steps": 2, "per_device_eval_batch_size": 1, "plot_loss": True,
        "compute_accuracy": True})
    assert "stopping early" in done.stderr
    state = json.loads((output / "trainer_state.json").read_text())
    assert state["global_step"] == 15 and state["best_global_step"] == 5
    assert state["best_model_checkpoint"].endswith("checkpoint-5")
    kept = sorted(path.name for path in output.glob("checkpoint-*"))
    assert len(kept) == 2 and "checkpoint-5" in kept
    best = (output / "checkpoint-5" / "adapter_model.safetensors").read_bytes()
    other = next(output / name for name in kept if name != "checkpoint-5") / "adapter_model.safetensors"
    assert (output / "adapter_model.safetensors").read_bytes() == best != other.read_bytes()
    results = json.loads((output / "eval_results.json").read_text())
    assert results["eval_loss"] == pytest.approx(state["best_metric"])
    assert 0 <= results["eval_accuracy"] <= 1
    assert [line["current_steps"] for line in log_lines(output) if "eval_loss" in line][:3] == [5, 10, 15]
    assert (output / "training_eval_loss.png").read_bytes()[:4] == b"\x89PNG"


def test_evaluation_of_a_run_that_learns(shop, tmp_path):
    output = tmp_path / "run"
    shop.train(output, model=shop.tiny, eval_dataset="few", eval_strategy="steps", eval_steps=10,
               **TINY | {"dataset": "few", "learning_rate": 1e-2})
    evaluated = [line["eval_loss"] for line in log_lines(output) if "eval_loss" in line]
    assert len(evaluated) >= 4 and evaluated[3] < evaluated[0] - 0.1


# --- merging

def test_merged_model_answers_as_its_adapter(learned, tmp_path):
    merged = tmp_path / "merged"
    export(DEFAULT_MODEL, merged, f"adapter_name_or_path={learned}", "template=smollm2")
    checked = binary("verify", DEFAULT_MODEL, learned, merged)
    assert "agrees with its adapter" in checked.stdout
    report = json.loads((merged / "verify.json").read_text())
    assert report["agrees"] is True
    modelfile = (merged / "Modelfile").read_text()
    assert "\nFROM .\n" in modelfile and "<|im_start|>user" in modelfile
    question = json.loads((EXAMPLES / "support_triage.json").read_text())[0]["instruction"]
    with Server(DEFAULT_MODEL, "--served-model-name", "base", "--enable-lora", "--lora-modules", f"learned={learned}",
                "--dtype", "bfloat16") as server:
        base, adapter = chat(server, "base", question), chat(server, "learned", question)
    with Server(merged, "--served-model-name", "merged") as server:
        assert chat(server, "merged", question) == adapter != base


def test_verify_tells_another_model(shop, learned):
    assert "does NOT do" in binary("verify", DEFAULT_MODEL, learned, shop.base, "--out", shop.folder / "no.json",
                                   expect=1).stdout


def test_several_adapters_are_merged_in_order(shop, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for output, dataset in ((first, "identity"), (second, "alpaca_en_demo")):
        shop.train(output, model=shop.tiny, **TINY | {"dataset": dataset, "max_steps": 5, "learning_rate": 1e-2})
    both, step, steps = tmp_path / "both", tmp_path / "step", tmp_path / "steps"
    export(shop.tiny, both, f"adapter_name_or_path={first},{second}", "infer_dtype=float32")
    export(shop.tiny, step, f"adapter_name_or_path={first}", "infer_dtype=float32")
    export(step, steps, f"adapter_name_or_path={second}", "infer_dtype=float32")
    merged = read_safetensors(both / "model.safetensors")
    assert merged == read_safetensors(steps / "model.safetensors") != read_safetensors(step / "model.safetensors")


def test_adapter_that_matches_nothing_is_refused(shop, tmp_path):
    adapter = tmp_path / "gpt2"
    adapter.mkdir()
    name = "base_model.model.transformer.h.0.attn.c_attn"
    write_safetensors(adapter / "adapter_model.safetensors", {
        f"{name}.lora_A.weight": ("F32", (8, 64), bytes(2048)), f"{name}.lora_B.weight": ("F32", (64, 8), bytes(2048))})
    (adapter / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["c_attn"], "bias": "none"}))
    yaml = tmp_path / "export.yaml"
    yaml.write_text(f"model_name_or_path: {shop.tiny}\nadapter_name_or_path: {adapter}\nexport_dir: {tmp_path / 'out'}\n")
    done = subprocess.run([str(BINARY), "export", str(yaml)], capture_output=True, text=True)
    assert done.returncode in (1, 2) and "c_attn" in done.stderr
    assert not (tmp_path / "out" / "model.safetensors").exists()


# --- errors: one line that says what to do

def error_line(done):
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1 and lines[0].startswith("polylora: error: "), done.stderr
    assert done.stderr.splitlines()[-1] == lines[0]
    return lines[0]


@pytest.mark.parametrize("keys, code, words", [
    ({"learning_rte": 1e-4}, 2, ["learning_rte", "learning_rate"]),
    ({"learning_rate": "fast"}, 2, ["learning_rate", "fast"]),
    ({"val_size": 0.1, "eval_dataset": "identity"}, 2, ["val_size", "eval_dataset"]),
    ({"pissa_init": True, "quantization_bit": 8}, 2, ["pissa_init", "quantization_bit"]),
    ({"stage": "rm"}, 1, ["stage", "rm"]),
    ({"dataset": "alpaca_en_dmeo"}, 2, ["alpaca_en_dmeo", "alpaca_en_demo"]),
    ({"dataset": "broken"}, 1, ["broken.json", "row 4", "output"]),
    ({"dataset": "gap"}, 1, ["gap.json", "row 2", "'output' is missing"]),
    ({"dataset": "wrong_column"}, 2, ["wrong_column", "'answer'", "dataset_info.json"]),
    ({"model": "nowhere/model"}, 1, ["nowhere/model"]),
    ({"resume_from_checkpoint": "nowhere/checkpoint-3"}, 1, ["nowhere/checkpoint-3"]),
], ids=lambda value: "-".join(value) if isinstance(value, dict) else None)
def test_error(shop, tmp_path, keys, code, words):
    model = keys.get("model", shop.tiny)
    output = tmp_path / "run"
    done = subprocess.run([str(BINARY), *map(str, shop.arguments(output, **keys | {"model": model}))],
                          capture_output=True, text=True)
    assert done.returncode == code, (done.returncode, done.stderr)
    line = error_line(done)
    assert all(word in line for word in words), line
    assert not output.exists()


def test_used_output_folder_is_refused(shop, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    line = error_line(shop.train(tmp_path, model=shop.tiny, expect=2))
    assert "overwrite_output_dir" in line and str(tmp_path) in line
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_does_not_fit_is_refused_before_it_is_loaded(shop, tmp_path):
    huge = write_huge_model(tmp_path / "huge", shop.base)
    began = time.monotonic()
    done = shop.train(tmp_path / "run", model=huge, expect=1)
    line = error_line(done)
    assert "are free" in line and "cutoff_len" in line and "quantization_bit" in line
    assert time.monotonic() - began < 30


# --- variants: each learns, and its adapter works

VARIANTS = {
    "packing": {"packing": True},
    "neat": {"neat_packing": True},
    "q8": {"quantization_bit": 8},
    "q4": {"quantization_bit": 4},
    "pissa": {"pissa_init": True, "pissa_iter": 4, "learning_rate": 2e-4},
    "rslora": {"use_rslora": True, "learning_rate": 5e-4},
    "loraplus": {"loraplus_lr_ratio": 4, "learning_rate": 3e-4},
    "neftune": {"neftune_noise_alpha": 1},
    "targets": {"lora_target": "q_proj,v_proj", "learning_rate": 5e-3},
    "pt": {"stage": "pt", "dataset": "texts", "max_samples": 16},
}
MERGED_VARIANTS = {
    "dora": {"use_dora": True, "learning_rate": 2e-3},
    "head": {"additional_target": "embed_tokens,lm_head", "learning_rate": 2e-4},
}


def check_losses(output, falls=True):
    values = list(losses(output).values())
    assert len(values) == 4 and all(math.isfinite(value) for value in values), values
    if falls:
        assert values[-1] < values[0], values


@pytest.fixture(scope="module")
def variants(shop):
    for name, keys in VARIANTS.items():
        shop.train(shop.folder / "variants" / name, **keys)
    return shop.folder / "variants"


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_learns(variants, name):
    check_losses(variants / name)


def test_variants_are_served(variants):
    def log_probability(server, model):
        answer = server.complete(model=model, prompt="queue=billing priority=high", max_tokens=1, echo=True, logprobs=1,
                                 temperature=0)
        values = [value for value in answer["logprobs"]["token_logprobs"] if value is not None]
        assert all(math.isfinite(value) for value in values)
        return sum(values)
    with Server(DEFAULT_MODEL, "--served-model-name", "base", "--dtype", "bfloat16", "--enable-lora", "--max-lora-rank",
                "16", "--lora-modules", variants) as server:
        base = log_probability(server, "base")
        changed = {name: log_probability(server, name) for name in VARIANTS}
    assert all(abs(value - base) > 1e-3 for value in changed.values()), (base, changed)


def mean_loss(server, records):
    """Over the answers' tokens, as training computes it, with the template smollm2."""
    total, count = 0.0, 0
    for record in records:
        prompt = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face.<|im_end|>\n"
                  f"<|im_start|>user\n{record['instruction']}<|im_end|>\n<|im_start|>assistant\n")
        given = server.post("/tokenize", prompt=prompt, add_special_tokens=False)["count"]
        answer = server.complete(prompt=f"{prompt}{record['output']}<|im_end|>\n", max_tokens=1, echo=True, logprobs=1,
                                 temperature=0, add_special_tokens=False)
        values = answer["logprobs"]["token_logprobs"][given:-1]
        total -= sum(values)
        count += len(values)
    return total / count


@pytest.mark.parametrize("name", MERGED_VARIANTS)
def test_merged_variant_has_the_loss_of_training(shop, tmp_path, name):
    """serve takes no adapter of these kinds: the merged model must have the loss that the next update saw, up to
    training's bf16. (Merged to bf16, steps of an embedding would be lost in the rounding.)"""
    output, merged = tmp_path / "run", tmp_path / "merged"
    shop.train(output, template="smollm2", **MERGED_VARIANTS[name] | {"max_steps": 5, "save_steps": 4})
    values = losses(output)
    assert values[5] < values[1] - 0.5
    export(DEFAULT_MODEL, merged, f"adapter_name_or_path={output / 'checkpoint-4'}", "infer_dtype=float32")
    records = json.loads((shop.data / "few.json").read_text())
    with Server(merged, "--dtype", "float32") as server:
        assert mean_loss(server, records) == pytest.approx(values[5], abs=0.05)


def test_preferences(shop, tmp_path):
    shop.train(tmp_path / "run", stage="dpo", dataset="preferences", pref_beta=0.1, learning_rate=2e-4)
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    margins = [entry["rewards/margins"] for entry in history if "rewards/margins" in entry]
    assert margins[0] == pytest.approx(0, abs=0.02) and margins[-1] > margins[0] + 0.05
    assert losses(tmp_path / "run")[1] == pytest.approx(math.log(2), abs=0.02)
    check_losses(tmp_path / "run")


def test_training_goes_on_from_an_adapter(shop, learned, tmp_path):
    output = tmp_path / "run"
    shop.train(output, adapter_name_or_path=learned, max_steps=1)
    assert losses(output)[1] < losses(learned)[1] / 2
