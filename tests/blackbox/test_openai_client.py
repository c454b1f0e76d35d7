"""What users' programs do: the real openai client against the built binary."""

import asyncio
import concurrent.futures
import http.client
import json
import signal
import socket
import threading
import time

import openai
import pytest
from harness import DEFAULT_MODEL, Server, write_adapter

pytestmark = pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}")

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("openai") / "loud", seed=1, rank=8, std_b=0.05)


@pytest.fixture(scope="module")
def server(adapter):
    with Server(DEFAULT_MODEL, "--served-model-name", "base", "--enable-lora", "--lora-modules", f"loud={adapter}",
                "--max-model-len", 2048) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def test_models_list_base_and_adapters(client, adapter):
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {"base", "loud"}
    assert models["loud"].parent == "base" and models["loud"].root == str(adapter)


def test_chat(client):
    answer = client.chat.completions.create(model="base", messages=QUESTION, temperature=0, max_tokens=16)
    assert answer.choices[0].message.content and answer.choices[0].message.role == "assistant"
    assert answer.model == "base" and answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens > 30  # the template put its system message in front


def test_completions(client):
    answer = client.completions.create(model="base", prompt="The capital of France is", temperature=0, max_tokens=2)
    assert answer.choices[0].text.startswith(" Paris")


def test_an_adapter_changes_the_answer_and_is_echoed(client):
    answers = {model: client.completions.create(model=model, prompt="Once upon a time", temperature=0, max_tokens=12)
               for model in ("base", "loud")}
    assert answers["loud"].model == "loud"
    assert answers["base"].choices[0].text != answers["loud"].choices[0].text


def test_streamed_equals_whole(client):
    ask = dict(model="loud", messages=QUESTION, temperature=0, max_tokens=24)
    whole = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert not chunks[-1].choices and chunks[-1].usage == whole.usage


def test_async_streams_side_by_side(server):
    async def one(client, model):
        stream = await client.completions.create(model=model, prompt="The sea", max_tokens=16, temperature=0, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def both():
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none") as client:
            return await asyncio.gather(*[one(client, m) for m in ("base", "loud") * 4])

    texts = asyncio.run(both())
    assert len(set(texts)) == 2 and len(set(texts[::2])) == 1


def test_logprobs_agree_between_the_routes(client):
    chat = client.chat.completions.create(model="base", messages=QUESTION, temperature=0, max_tokens=4, logprobs=True,
                                          top_logprobs=3)
    for entry in chat.choices[0].logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == max(top.logprob for top in entry.top_logprobs)
        assert bytes(entry.bytes).decode() == entry.token
    text = client.completions.create(model="base", prompt="The capital of France is", max_tokens=3, temperature=0,
                                     logprobs=2)
    lists = text.choices[0].logprobs
    assert "".join(lists.tokens) == text.choices[0].text
    assert lists.text_offset[1] == len(lists.tokens[0])


def test_echo_scores_the_prompt(client):
    answer = client.completions.create(model="base", prompt="The capital of France is", max_tokens=1, temperature=0,
                                       logprobs=1, echo=True)
    assert answer.choices[0].text.startswith("The capital of France is")
    assert answer.choices[0].logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in answer.choices[0].logprobs.token_logprobs[1:])


def test_n_and_seed(client):
    def texts(seed):
        answer = client.completions.create(model="base", prompt="A colour:", n=3, seed=seed, temperature=1.0, max_tokens=8)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.text for choice in answer.choices]

    assert texts(11) == texts(11)
    assert len(set(texts(11))) > 1
    assert texts(11) != texts(12)


def test_stop_strings_are_cut_off(client):
    full = client.completions.create(model="base", prompt="One, two, three,", temperature=0, max_tokens=16)
    word = full.choices[0].text.split()[1]
    cut = client.completions.create(model="base", prompt="One, two, three,", temperature=0, max_tokens=16, stop=word)
    assert cut.choices[0].finish_reason == "stop" and cut.choices[0].stop_reason == word
    assert word not in cut.choices[0].text and full.choices[0].text.startswith(cut.choices[0].text)
    streamed = client.completions.create(model="base", prompt="One, two, three,", temperature=0, max_tokens=16, stop=word,
                                         stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == cut.choices[0].text


def test_token_ids_in_and_out(server):
    answer = server.post("/v1/completions", model="base", prompt=[504, 3575, 282, 4649, 314], max_tokens=2, temperature=0,
                         return_token_ids=True)
    choice = answer["choices"][0]
    assert choice["prompt_token_ids"] == [504, 3575, 282, 4649, 314]
    detokenized = server.post("/detokenize", model="base", tokens=choice["token_ids"])
    assert detokenized == {"prompt": choice["text"]}
    tokens = server.post("/tokenize", model="base", prompt="The capital of France is")
    assert tokens["tokens"] == [504, 3575, 282, 4649, 314] and tokens["count"] == 5


def test_several_prompts_in_one_request(client):
    answer = client.completions.create(model="base", prompt=["Hello", "World"], max_tokens=4, temperature=0)
    alone = client.completions.create(model="base", prompt="World", max_tokens=4, temperature=0)
    assert answer.choices[1].text == alone.choices[0].text


@pytest.mark.parametrize("change, status, words", [
    ({"model": "nobody"}, 404, "does not exist"),
    ({"temperature": -1}, 400, "temperature"),
    ({"top_p": 0}, 400, "top_p"),
    ({"max_tokens": "many"}, 400, "max_tokens"),
    ({"n": 1000000}, 400, "n"),
    ({"prompt": []}, 400, "prompt"),
    ({"prompt": [10 ** 9]}, 400, "vocabulary"),
    ({"prompt": [5] * 3000}, 400, "context length"),
    ({"logprobs": 10000}, 400, "logprobs"),
    ({"response_format": {"type": "yaml"}}, 400, "response_format"),
])
def test_errors_say_what_is_wrong(server, change, status, words):
    code, answer = server.request("POST", "/v1/completions",
                                  {"model": "base", "prompt": "Hi", "max_tokens": 2, **change})
    assert code == status, answer
    assert answer["error"]["code"] == status and words in answer["error"]["message"], answer


def test_errors_reach_the_client_as_its_own_exceptions(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=QUESTION)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="base", messages=QUESTION, temperature=-1)


def test_load_and_unload_at_run_time(server, adapter):
    assert server.request("POST", "/v1/load_lora_adapter", {"lora_name": "late", "lora_path": str(adapter)})[0] == 200
    ask = dict(prompt="Once upon a time", temperature=0, max_tokens=8)
    assert server.complete(model="late", **ask)["text"] == server.complete(model="loud", **ask)["text"]
    again = server.request("POST", "/v1/load_lora_adapter", {"lora_name": "late", "lora_path": str(adapter)})
    assert again[0] == 400 and "already been loaded" in again[1]["error"]["message"]
    missing = server.request("POST", "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/no/such/folder"})
    assert missing[0] == 404 and "No adapter found for" in missing[1]["error"]["message"]
    assert server.request("POST", "/v1/unload_lora_adapter", {"lora_name": "late"})[0] == 200
    assert server.request("POST", "/v1/completions", {"model": "late", **ask})[0] == 404


def test_a_broken_adapter_is_refused_with_the_reason(server, adapter, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text().replace('"r": 8', '"r": 9'))
    (broken / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    status, answer = server.request("POST", "/v1/load_lora_adapter", {"lora_name": "b", "lora_path": str(broken)})
    assert status == 400 and "shape" in answer["error"]["message"] or "rank" in answer["error"]["message"], answer
    assert "b" not in [model["id"] for model in server.request("GET", "/v1/models")[1]["data"]]


def test_a_client_that_leaves_frees_its_place(server):
    connection = http.client.HTTPConnection(server.host, server.port)
    connection.request("POST", "/v1/completions", json.dumps(
        {"model": "base", "prompt": "Long", "max_tokens": 1900, "ignore_eos": True, "stream": True}),
        {"Content-Type": "application/json"})
    connection.getresponse().readline()
    assert server.metric("vllm:num_requests_running") == 1
    connection.close()
    deadline = time.monotonic() + 10
    while server.metric("vllm:num_requests_running") > 0:
        assert time.monotonic() < deadline, "the abandoned request still runs"
        time.sleep(0.05)


def test_hostile_bodies_do_not_hurt(server):
    deep = '{"prompt":' + "[" * 100000 + "]" * 100000 + "}"
    for body in (deep, "{", "\xff", "[1,2", '{"prompt": NaN}', "null", '"text"'):
        connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
        connection.request("POST", "/v1/completions", body.encode("latin-1"), {"Content-Type": "application/json"})
        assert connection.getresponse().status == 400, body[:20]
        connection.close()
    assert server.request("GET", "/health")[0] == 200


def test_routes_that_do_not_exist(server):
    assert server.request("GET", "/v1/nope") == (404, {"detail": "Not Found"})
    assert server.request("GET", "/v1/completions") == (405, {"detail": "Method Not Allowed"})


def test_api_key_guards_everything_but_health():
    with Server(DEFAULT_MODEL, "--api-key", "secret", "--max-model-len", 512) as server:
        assert server.request("GET", "/health")[0] == 200
        for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/tokenize")):
            assert server.request(method, path, {} if method == "POST" else None)[0] == 401
        assert server.request("GET", "/v1/models", headers={"Authorization": "Bearer secret"})[0] == 200
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0).models.list()


def test_a_full_queue_answers_503():
    with Server(DEFAULT_MODEL, "--max-num-seqs", 1, "--max-num-queued-reqs", 2, "--max-model-len", 512,
                "--served-model-name", "base") as server:
        body = {"model": "base", "prompt": "Hi", "max_tokens": 200, "ignore_eos": True}
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            statuses = list(pool.map(lambda _: server.request("POST", "/v1/completions", body)[0], range(12)))
        assert set(statuses) == {200, 503} and statuses.count(200) >= 2


def test_sigterm_lets_running_answers_finish():
    with Server(DEFAULT_MODEL, "--max-model-len", 512, "--served-model-name", "base") as server:
        answers = []
        body = {"model": "base", "prompt": "Hi", "max_tokens": 300, "ignore_eos": True}
        thread = threading.Thread(target=lambda: answers.append(server.request("POST", "/v1/completions", body)))
        thread.start()
        while server.metric("vllm:num_requests_running") == 0:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        thread.join()
        assert answers[0][0] == 200 and answers[0][1]["usage"]["completion_tokens"] == 300
        assert server.process.wait(timeout=10) == 0


def test_half_open_connections_time_out_and_do_not_block_others(server):
    idle = socket.create_connection((server.host, server.port))
    idle.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n")
    assert server.request("GET", "/health")[0] == 200
    idle.settimeout(20)
    while idle.recv(4096):  # a 408 or nothing, then the end
        pass
    idle.close()
