"""What the tests of `polylora train` and `export` share: small datasets, a tiny model, runs of the binary."""

import json
import pathlib
import subprocess

from harness import BINARY, ROOT, write_safetensors

EXAMPLES = ROOT / "examples"

# LLaMA-Factory's examples/train_lora/llama3_lora_sft.yaml, key by key.
LLAMA3_LORA_SFT = """\
### model
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
trust_remote_code: true
### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
### dataset
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16
dataloader_num_workers: 4
### output
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none  # choices: [none, wandb, tensorboard, swanlab, mlflow]
### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
### eval
# eval_dataset: alpaca_en_demo
# val_size: 0.1
# per_device_eval_batch_size: 1
# eval_strategy: steps
# eval_steps: 500
"""

# A short run whose updates all see the same four records, so that the loss must fall.
SHORT = """\
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: few
cutoff_len: 128
logging_steps: 1
report_to: none
per_device_train_batch_size: 4
learning_rate: 1.0e-3
max_steps: 4
lr_scheduler_type: constant
bf16: true
"""


def binary(*arguments, expect=0, timeout=600):
    """Runs the binary to its end; its result, with .stderr as text."""
    done = subprocess.run([str(BINARY), *map(str, arguments)], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == expect, (done.returncode, done.stderr[-3000:])
    return done


def settings(**keys):
    """key=value arguments; lists as OmegaConf writes them."""
    def text(value):
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, (list, tuple)):
            return "[" + ",".join(map(str, value)) + "]"
        return str(value)
    return [f"{key}={text(value)}" for key, value in keys.items()]


def log_lines(output_dir):
    path = pathlib.Path(output_dir) / "trainer_log.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def losses(output_dir):
    """{update: loss}"""
    return {line["current_steps"]: line["loss"] for line in log_lines(output_dir) if "loss" in line}


def write_datasets(folder):
    """identity and alpaca_en_demo under the names of LLaMA-Factory's example, and some with a purpose each."""
    shop = json.loads((EXAMPLES / "shop_voice.json").read_text())
    triage = json.loads((EXAMPLES / "support_triage.json").read_text())
    preferences = [{"instruction": one["instruction"], "input": "", "chosen": one["output"], "rejected": other["output"]}
                   for one, other in zip(shop[:4], triage[:4])]
    datasets = {
        "identity": (shop[:40], {}),
        "alpaca_en_demo": (triage[:40], {}),
        "few": (triage[:4], {}),
        "preferences": (preferences, {"ranking": True, "columns": {
            "prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}}),
        "texts": ([{"text": record["output"]} for record in shop[:40]], {"columns": {"prompt": "text"}}),
        "broken": (triage[:3] + [{"instruction": "Where is my parcel?", "input": "", "output": 7}], {}),
        "gap": ([triage[0], {"instruction": "Where is my parcel?", "input": ""}], {}),
        "wrong_column": (triage[:3], {"columns": {"prompt": "instruction", "response": "answer"}}),
    }
    info = {}
    for name, (records, more) in datasets.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
        info[name] = {"file_name": f"{name}.json", **more}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def llama_tensors(config):
    """(name, shape) of every tensor of a Llama with tied embeddings."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    q = config["num_attention_heads"] * config["head_dim"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}.{norm}.weight", (hidden,)
        for name, shape in (("q_proj", (q, hidden)), ("k_proj", (kv, hidden)), ("v_proj", (kv, hidden)),
                            ("o_proj", (hidden, q))):
            yield f"{prefix}.self_attn.{name}.weight", shape
        for name, shape in (("gate_proj", (inner, hidden)), ("up_proj", (inner, hidden)), ("down_proj", (hidden, inner))):
            yield f"{prefix}.mlp.{name}.weight", shape
    yield "model.norm.weight", (hidden,)


def write_config(folder, **sizes):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
              "rope_theta": 10000.0, "max_position_embeddings": 2048, "tie_word_embeddings": True, "bos_token_id": 1,
              "eos_token_id": 2, "torch_dtype": "bfloat16", "vocab_size": 49152, **sizes}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return config


def copy_tokenizer(source, folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        (folder / name).write_bytes((source / name).read_bytes())


def write_tiny_model(folder, tokenizer):
    """Two random layers under the default model's vocabulary: an update takes milliseconds."""
    import numpy as np
    config = write_config(folder, hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4,
                          num_key_value_heads=2, head_dim=16)
    rng = np.random.default_rng(5)

    def bf16(shape):
        values = np.ones(shape, np.float32) if len(shape) == 1 else rng.standard_normal(shape, np.float32) * 0.1
        return ("BF16", shape, (values.view(np.uint32) >> 16).astype(np.uint16).tobytes())

    write_safetensors(folder / "model.safetensors", {name: bf16(shape) for name, shape in llama_tensors(config)})
    copy_tokenizer(tokenizer, folder)
    return folder


def write_huge_model(folder, tokenizer):
    """Over a terabyte of weights that take no space on disk: the file is a hole."""
    config = write_config(folder, hidden_size=8192, intermediate_size=28672, num_hidden_layers=640,
                          num_attention_heads=64, num_key_value_heads=8, head_dim=128)
    header, offset = {}, 0
    for name, shape in llama_tensors(config):
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    copy_tokenizer(tokenizer, folder)
    return folder


def export(model, folder, *more):
    """`polylora export` without a YAML of its own."""
    yaml = pathlib.Path(str(folder) + ".yaml")
    yaml.write_text(f"model_name_or_path: {model}\nexport_dir: {folder}\n")
    return binary("export", yaml, *more)


