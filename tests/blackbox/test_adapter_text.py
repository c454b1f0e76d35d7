"""What an adapter's folder brings for text (chat template, added tokens, generation defaults) counts for its requests
alone."""

import json
import os
import shutil
import threading

import pytest
from harness import DEFAULT_MODEL, Server, read_safetensors, write_adapter, write_safetensors
from training import export

pytestmark = pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}")

TEMPLATE = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
MESSAGES = [{"role": "user", "content": "Are you open on Sundays?"}]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "base"
    export(DEFAULT_MODEL, folder)
    return folder


def adapter_with_a_token(folder, base):
    """One more token than the base, and the rows of both embeddings for it: a copy of another token's."""
    write_adapter(folder, seed=3)
    shutil.copy(base / "tokenizer_config.json", folder)
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    vocabulary = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"].append({"id": vocabulary, "content": "<|shop|>", "single_word": False, "lstrip": False,
                                      "rstrip": False, "normalized": False, "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    dtype, shape, raw = read_safetensors(base / "model.safetensors")["model.embed_tokens.weight"]
    assert shape[0] == vocabulary
    row = len(raw) // shape[0]
    grown = (dtype, [shape[0] + 1, shape[1]], raw + raw[1000 * row:1001 * row])
    tensors = read_safetensors(folder / "adapter_model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[f"base_model.model.{name}"] = grown
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    return vocabulary


@pytest.fixture(scope="module")
def server(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    write_adapter(root / "plain", seed=1)
    write_adapter(root / "spoken", seed=1)
    (root / "spoken" / "chat_template.jinja").write_text(TEMPLATE)
    write_adapter(root / "careful", seed=1)
    (root / "careful" / "generation_config.json").write_text(json.dumps({"temperature": 0.0, "max_new_tokens": 7}))
    token = adapter_with_a_token(root / "shop", base)
    with Server(base, "--served-model-name", "base", "--enable-lora", "--lora-memory", "1G", "--lora-modules",
                *(f"{path.name}={path}" for path in sorted(root.iterdir()))) as running:
        running.token = token
        yield running


def tokenize(server, **body):
    status, answer = server.request("POST", "/tokenize", body)
    assert status == 200, answer
    return answer["tokens"]


def test_its_chat_template(server):
    own = tokenize(server, model="spoken", messages=MESSAGES, add_generation_prompt=False)
    status, answer = server.request("POST", "/detokenize", {"model": "spoken", "tokens": own})
    assert (status, answer["prompt"]) == (200, "[user] Are you open on Sundays?\n")
    assert tokenize(server, model="plain", messages=MESSAGES) == tokenize(server, model="base", messages=MESSAGES)
    assert own != tokenize(server, model="base", messages=MESSAGES, add_generation_prompt=False)
    status, answer = server.request("POST", "/v1/chat/completions", {"model": "spoken", "messages": MESSAGES, "max_tokens": 4})
    assert status == 200 and answer["usage"]["prompt_tokens"] == len(own)


def test_its_tokens(server):
    assert tokenize(server, model="shop", prompt="<|shop|>", add_special_tokens=False) == [server.token]
    assert server.token not in tokenize(server, model="base", prompt="<|shop|>", add_special_tokens=False)
    answer = server.complete(model="shop", prompt=[server.token, 300, 400], max_tokens=4, temperature=0, logprobs=2,
                             return_token_ids=True, ignore_eos=True)
    assert len(answer["token_ids"]) == 4
    forced = server.complete(model="shop", prompt="Hello", max_tokens=2, temperature=0, ignore_eos=True,
                             allowed_token_ids=[server.token], return_token_ids=True)
    assert forced["token_ids"] == [server.token] * 2
    status, answer = server.request("POST", "/v1/completions", {"model": "base", "prompt": [server.token], "max_tokens": 1})
    assert status == 400 and "vocabulary" in json.dumps(answer)


def test_its_generation_defaults(server):
    body = {"messages": MESSAGES, "ignore_eos": True}
    answers = [server.request("POST", "/v1/chat/completions", {"model": "careful", **body})[1] for _ in range(2)]
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [7, 7]
    assert len({answer["choices"][0]["message"]["content"] for answer in answers}) == 1, "temperature 0 by default"
    _, answer = server.request("POST", "/v1/chat/completions", {"model": "plain", **body, "max_tokens": 20})
    assert answer["usage"]["completion_tokens"] == 20


def test_a_broken_template_fails_its_requests_only(server, tmp_path):
    broken = write_adapter(tmp_path / "broken", seed=2)
    (broken / "chat_template.jinja").write_text("{% if %}")
    status, _ = server.request("POST", "/v1/load_lora_adapter", {"lora_name": "broken", "lora_path": str(broken)})
    assert status == 200
    status, answer = server.request("POST", "/v1/chat/completions", {"model": "broken", "messages": MESSAGES})
    assert status in (400, 500) and "chat template" in json.dumps(answer)
    status, _ = server.request("POST", "/v1/chat/completions", {"model": "plain", "messages": MESSAGES, "max_tokens": 2})
    assert status == 200


def test_nobody_waits_for_files_of_another(server, tmp_path):
    """Opening a FIFO for reading waits for a writer: so long do the adapter's own requests, and they alone."""
    slow = write_adapter(tmp_path / "slow", seed=2)
    os.mkfifo(slow / "chat_template.jinja")
    server.post("/v1/load_lora_adapter", lora_name="slow", lora_path=str(slow))
    tokenize(server, model="plain", prompt="read already")
    answers = []
    body = {"model": "slow", "prompt": "Hello"}
    waiting = threading.Thread(target=lambda: answers.append(server.request("POST", "/tokenize", body)))
    waiting.start()
    try:
        for name in ("base", "plain"):
            assert server.complete(model=name, prompt="Hello", max_tokens=2)["text"] is not None
        assert server.request("GET", "/health")[0] == 200
        assert waiting.is_alive() and not answers
    finally:
        os.close(os.open(slow / "chat_template.jinja", os.O_WRONLY))
        waiting.join()
    (status, answer), = answers
    assert status >= 400 and "chat_template.jinja" in json.dumps(answer)
