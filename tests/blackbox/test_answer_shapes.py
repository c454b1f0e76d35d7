"""The bytes of answers: keys in the order in which vLLM 0.32 writes them, streams chunk by chunk."""

import http.client
import json
import re

import pytest
from harness import DEFAULT_MODEL, Server, write_adapter

pytestmark = pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}")

PROMPT = "The capital of France is"
MESSAGES = [{"role": "user", "content": "Say hi."}]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    adapter = write_adapter(tmp_path_factory.mktemp("shapes") / "a", seed=1)
    with Server(DEFAULT_MODEL, "--served-model-name", "base", "--enable-lora", "--lora-modules", f"a={adapter}",
                "--max-model-len", 2048) as running:
        yield running


def raw(server, method, path, body=None, headers=None):
    """(status, headers, text): the bytes as they came."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=120)
    payload = body if isinstance(body, str) or body is None else json.dumps(body)
    connection.request(method, path, payload, {"Content-Type": "application/json", **(headers or {})})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, {key.lower(): value for key, value in response.getheaders()}, text


def masked(text):
    """The text with what differs from run to run replaced."""
    text = re.sub(r'"(cmpl|chatcmpl|modelperm)-[0-9a-f]+"', r'"\1-ID"', text)
    text = re.sub(r'"created":\d+', '"created":0', text)
    text = re.sub(r'"polylora-[0-9.]+"', '"FINGERPRINT"', text)
    return re.sub(r"-?\d+\.\d+(e-?\d+)?", "0.5", text)


def events(server, path, **body):
    status, headers, text = raw(server, "POST", path, {"model": "base", "stream": True, **body})
    assert status == 200 and headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["transfer-encoding"] == "chunked"
    assert text.endswith("data: [DONE]\n\n")
    return [masked(event.removeprefix("data: ")) for event in text.split("\n\n")[:-2]]


def test_completion(server):
    status, headers, text = raw(server, "POST", "/v1/completions",
                                {"model": "base", "prompt": PROMPT, "max_tokens": 1, "temperature": 0})
    assert status == 200 and headers["content-type"] == "application/json" and headers["vary"] == "Origin"
    assert masked(text) == (
        '{"id":"cmpl-ID","object":"text_completion","created":0,"model":"base","choices":[{"index":0,"text":" Paris",'
        '"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"prompt_logprobs":null,'
        '"prompt_token_ids":null,"routed_experts":null}],"service_tier":null,"system_fingerprint":"FINGERPRINT",'
        '"usage":{"prompt_tokens":5,"total_tokens":6,"completion_tokens":1,"prompt_tokens_details":null,'
        '"completion_tokens_details":null},"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}')


def test_echo_with_logprobs(server):
    _, _, text = raw(server, "POST", "/v1/completions", {
        "model": "base", "prompt": PROMPT, "max_tokens": 1, "temperature": 0, "logprobs": 0, "echo": True})
    choice = masked(text).split('"choices":')[1].split(',"service_tier"')[0]
    before, prompt_logprobs = choice.split(',"prompt_logprobs":')
    assert before == (
        '[{"index":0,"text":"The capital of France is Paris","logprobs":{"text_offset":[0,3,11,14,21,24],'
        '"token_logprobs":[null,0.5,0.5,0.5,0.5,0.5],"tokens":["The"," capital"," of"," France"," is"," Paris"],'
        '"top_logprobs":[null,{" capital":0.5},{" of":0.5},{" France":0.5},{" is":0.5},{" Paris":0.5}]},'
        '"finish_reason":"length","stop_reason":null,"token_ids":null')
    assert prompt_logprobs.startswith('[null,{"3575":{"logprob":0.5,"rank":')
    assert prompt_logprobs.endswith('"decoded_token":" is"}}],"prompt_token_ids":null,"routed_experts":null}]')
    decoded = re.findall(r'"decoded_token":"([^"]*)"', prompt_logprobs)
    assert decoded == [" capital", " of", " France", " is"]


def test_echo_of_the_prompt_alone(server):
    answer = server.post("/v1/completions", model="base", prompt=PROMPT, max_tokens=0, echo=True, logprobs=1)
    assert answer["choices"][0]["text"] == PROMPT
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == 5
    assert answer["usage"]["completion_tokens"] == 0


def test_completion_stream(server):
    chunk = ('{"id":"cmpl-ID","object":"text_completion","created":0,"model":"base","choices":[{"index":0,"text":"%s",'
             '"logprobs":null,"finish_reason":%s,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]%s}')
    ask = dict(prompt=PROMPT, max_tokens=2, temperature=0)
    assert events(server, "/v1/completions", **ask) == [
        chunk % (" Paris", "null", ""), chunk % (".", '"length"', ',"system_fingerprint":"FINGERPRINT"')]
    usage = '{"prompt_tokens":5,"total_tokens":7,"completion_tokens":2}'
    last = ('{"id":"cmpl-ID","object":"text_completion","created":0,"model":"base","choices":[],"usage":%s,'
            '"system_fingerprint":"FINGERPRINT"}' % usage)
    assert events(server, "/v1/completions", **ask, stream_options={"include_usage": True}) == [
        chunk % (" Paris", "null", ""), chunk % (".", '"length"', ""), last]
    continuous = {"include_usage": True, "continuous_usage_stats": True}
    assert events(server, "/v1/completions", **ask, stream_options=continuous) == [
        chunk % (" Paris", "null", ',"usage":{"prompt_tokens":5,"total_tokens":6,"completion_tokens":1}'),
        chunk % (".", '"length"', ',"usage":' + usage), last]


def test_chat(server):
    _, _, text = raw(server, "POST", "/v1/chat/completions",
                     {"model": "base", "messages": MESSAGES, "max_tokens": 1, "temperature": 0})
    content = json.loads(text)["choices"][0]["message"]["content"]
    assert masked(text) == (
        '{"id":"chatcmpl-ID","object":"chat.completion","created":0,"model":"base","choices":[{"index":0,"message":'
        '{"role":"assistant","content":%s,"refusal":null,"annotations":null,"audio":null,"function_call":null,'
        '"reasoning":null},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,'
        '"routed_experts":null}],"service_tier":null,"system_fingerprint":"FINGERPRINT","usage":{"prompt_tokens":33,'
        '"total_tokens":34,"completion_tokens":1,"prompt_tokens_details":null,"completion_tokens_details":null},'
        '"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,'
        '"ec_transfer_params":null,"metrics":null}' % json.dumps(content))


def test_chat_stream(server):
    got = events(server, "/v1/chat/completions", messages=MESSAGES, max_tokens=2, temperature=0)
    prefix = '{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":0,"model":"base","choices":[{"index":0,"delta":'
    assert got[0] == prefix + ('{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
                               '"prompt_token_ids":null,"prompt_text":null}')
    texts = [json.loads(event)["choices"][0]["delta"]["content"] for event in got[1:]]
    assert got[1:] == [
        prefix + '{"content":%s},"logprobs":null,"finish_reason":null,"token_ids":null}]}' % json.dumps(texts[0]),
        prefix + '{"content":%s},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}],'
                 '"system_fingerprint":"FINGERPRINT"}' % json.dumps(texts[1])]


def test_models(server):
    _, _, text = raw(server, "GET", "/v1/models")
    first, second = json.loads(text)["data"]
    assert list(first) == ["id", "object", "created", "owned_by", "root", "parent", "max_model_len", "permission"]
    assert (first["parent"], first["max_model_len"]) == (None, 2048)
    assert (second["parent"], second["max_model_len"]) == ("base", None)


def error(message, kind="BadRequestError", param="null", code=400):
    quoted = param if param == "null" else f'"{param}"'
    return '{"error":{"message":%s,"type":"%s","param":%s,"code":%d}}' % (json.dumps(message), kind, quoted, code)


ASK = {"model": "base", "prompt": PROMPT, "max_tokens": 4, "temperature": 0}
INT_PARSING = "Input should be a valid integer, unable to parse string as an integer"


@pytest.mark.parametrize("body, expected", [
    ({**ASK, "model": "zzz"},
     error("The model `zzz` does not exist. Valid aliases: base.", "NotFoundError", "model", 404)),
    ({**ASK, "max_tokens": 0}, error("max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
                                     param="max_tokens")),
    ({**ASK, "max_tokens": 5000},
     error("max_tokens=5000 cannot be greater than max_model_len=2048. Please request fewer output tokens. "
           "(parameter=max_tokens, value=5000)", param="max_tokens")),
    ({**ASK, "prompt": [504] * 2100},
     error("This model's maximum context length is 2048 tokens. However, your prompt contains 2100 input tokens, which "
           "exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
           "(parameter=input_tokens, value=2100)", param="input_tokens")),
    ({**ASK, "temperature": -1},
     error("temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)", param="temperature")),
    ({**ASK, "max_tokens": "abc"},
     error("1 validation error:\n  {'type': 'int_parsing', 'loc': 'body.max_tokens', 'msg': '%s', 'input': 'abc'}"
           % INT_PARSING, "Bad Request", "body.max_tokens")),
    ({"model": "base"},
     error("Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)", param="prompt")),
    ('{"model": "a00", ',
     error("1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.17', 'msg': 'JSON decode error', 'input': "
           "'<dict of 0 items>', 'ctx': {'error': 'Expecting property name enclosed in double quotes'}}",
           "Bad Request", "body.17")),
    ({**ASK, "stream_options": {"include_usage": True}},
     error("Stream options can only be defined when `stream=True`. (parameter=stream_options)", param="stream_options")),
])
def test_completion_errors(server, body, expected):
    status, headers, text = raw(server, "POST", "/v1/completions", body)
    assert text == expected
    assert status == json.loads(text)["error"]["code"] and headers["content-type"] == "application/json"


def test_errors_of_streams_are_statuses(server):
    status, _, text = raw(server, "POST", "/v1/chat/completions",
                          {"model": "zzz", "messages": MESSAGES, "stream": True})
    assert status == 404 and '"NotFoundError"' in text


@pytest.mark.parametrize("body, message", [
    ({"messages": []}, "Cannot apply chat template to an empty conversation. Provide at least one message."),
    ({"messages": MESSAGES, "tools": [{"type": "function", "function": {"name": "f"}}]}, "--enable-auto-tool-choice"),
    ({"messages": MESSAGES, "tools": [{}], "tool_choice": "required"}, "a tool must be"),
    ({"messages": MESSAGES, "response_format": {"type": "structural_tag"}}, "response_format"),
    ({"messages": MESSAGES, "structured_outputs": {"grammar": "root ::= x"}}, "grammar"),
    ({"messages": MESSAGES, "chat_template": "{{ 1 }}"}, "chat_template"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "image_url"),
])
def test_chat_refusals(server, body, message):
    status, _, text = raw(server, "POST", "/v1/chat/completions", {"model": "base", **body})
    assert status == 400 and message in json.loads(text)["error"]["message"]


def test_wrong_content_type(server):
    status, _, text = raw(server, "POST", "/v1/completions", json.dumps(ASK), {"Content-Type": "text/plain"})
    assert status == 400
    assert text == error("1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed", "Bad Request")


def test_lora_routes_speak_plain_text(server):
    status, headers, text = raw(server, "POST", "/v1/unload_lora_adapter", {"lora_name": "nobody"})
    assert (status, text) == (404, error("The lora adapter 'nobody' cannot be found.", "NotFoundError", code=404))
    path = next(m["root"] for m in server.request("GET", "/v1/models")[1]["data"] if m["id"] == "a")
    status, headers, text = raw(server, "POST", "/v1/load_lora_adapter", {"lora_name": "b", "lora_path": path})
    assert (status, text) == (200, "Success: LoRA adapter 'b' added successfully.") and "content-type" not in headers
    for body, message in (
            ({"lora_name": "b", "lora_path": path}, "The lora adapter 'b' has already been loaded. If you want to load "
                                                    "the adapter in place, set 'load_inplace' to True."),
            ({"lora_name": "", "lora_path": ""}, "Both 'lora_name' and 'lora_path' must be provided."),
            ({"lora_name": "base", "lora_path": path}, "The lora adapter 'base' conflicts with a served base model.")):
        status, _, text = raw(server, "POST", "/v1/load_lora_adapter", body)
        assert (status, text) == (400, error(message, "InvalidUserInput"))
    for path, shown in (("/adapters/does-not-exist", "<path>"), ("smol-r8-00", "smol-r8-00")):
        status, _, text = raw(server, "POST", "/v1/load_lora_adapter", {"lora_name": "n", "lora_path": path})
        assert (status, text) == (404, error(f"Loading lora n failed: No adapter found for {shown}", "NotFoundError", code=404))
    status, _, text = raw(server, "POST", "/v1/unload_lora_adapter", {"lora_name": "b"})
    assert (status, text) == (200, "Success: LoRA adapter 'b' removed successfully.")


def test_small_routes(server):
    for path in ("/health", "/ping"):
        status, headers, text = raw(server, "GET", path)
        assert (status, text) == (200, "") and "content-type" not in headers
    assert re.fullmatch(r'\{"version":"[0-9.]+"\}', raw(server, "GET", "/version")[2])
    assert raw(server, "GET", "/load")[2] == '{"server_load":0}'
    status, headers, text = raw(server, "GET", "/v1/completions")
    assert (status, headers["allow"], text) == (405, "POST", '{"detail":"Method Not Allowed"}')
    assert raw(server, "POST", "/tokenize", {"model": "base", "prompt": "Hello world", "return_token_strs": True})[2] == (
        '{"count":2,"max_model_len":2048,"tokens":[19556,905],"token_strs":["Hello","Ġworld"]}')
