"""Tools through the real openai client. Small models do not call tools by themselves: where a call must come from the
model ("auto"), a regular expression makes it write one in the parser's format."""

import json

import openai
import pytest
from harness import DEFAULT_MODEL, Server

pytestmark = pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}")

QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "the weather", "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"$ref": "#/$defs/Unit"}},
        "required": ["city", "unit"], "additionalProperties": False, "$defs": {"Unit": {"enum": ["C", "F"]}}}}},
    {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}},
]
WRITTEN = {
    "hermes": r'Hm\. <tool_call>\n\{"name": "get_weather", "arguments": \{"city": "[a-z]{1,8}"\}\}\n</tool_call>',
    "llama3_json": r'\{"name": "get_weather", "parameters": \{"city": "[a-z]{1,8}"\}\}',
    "mistral": r'\[TOOL_CALLS\]\[\{"name": "get_weather", "arguments": \{"city": "[a-z]{1,8}"\}\}\]',
}


@pytest.fixture(scope="module", params=list(WRITTEN))
def server(request):
    with Server(DEFAULT_MODEL, "--served-model-name", "base", "--max-model-len", 1024, "--enable-auto-tool-choice",
                "--tool-call-parser", request.param) as running:
        running.parser = request.param
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def ask(client, **fields):
    fields = {"tools": TOOLS, "max_tokens": 120, "temperature": 0, **fields}
    return client.chat.completions.create(model="base", messages=fields.pop("messages", QUESTION), **fields)


def collect(stream):
    """What a client puts together from a stream: (content, calls, finish_reason)."""
    content, calls, reason = "", [], None
    for chunk in stream:
        choice = chunk.choices[0]
        content += choice.delta.content or ""
        for piece in choice.delta.tool_calls or []:
            if piece.id:
                assert piece.index == len(calls) and piece.type == "function"
                calls.append([piece.function.name, ""])
            calls[piece.index][1] += piece.function.arguments or ""
        reason = choice.finish_reason or reason
    return content, calls, reason


def test_auto_finds_a_call(client, server):
    fields = {"extra_body": {"guided_regex": WRITTEN[server.parser]}, "temperature": 1, "seed": 7}
    choice = ask(client, **fields).choices[0]
    [call] = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and call.type == "function" and call.id
    assert call.function.name == "get_weather" and list(json.loads(call.function.arguments)) == ["city"]
    assert choice.message.content == ("Hm. " if server.parser == "hermes" else None)

    content, calls, reason = collect(ask(client, stream=True, **fields))
    assert (content or None) == choice.message.content and reason == "tool_calls"
    assert calls == [["get_weather", call.function.arguments]]


def test_arguments_come_in_pieces(client, server):
    stream = ask(client, stream=True, extra_body={"guided_regex": WRITTEN[server.parser]}, temperature=1, seed=7)
    pieces = [piece for chunk in stream for piece in chunk.choices[0].delta.tool_calls or []]
    assert len(pieces) > 2 and pieces[0].function.name == "get_weather"
    assert not any(piece.id or piece.function.name for piece in pieces[1:])


def test_auto_without_a_call_is_content(client, server):
    fields = {"extra_body": {"guided_choice": ["It is sunny."]}}
    choice = ask(client, **fields).choices[0]
    assert choice.message.content == "It is sunny." and not choice.message.tool_calls
    assert choice.finish_reason == "stop"
    assert collect(ask(client, stream=True, **fields)) == ("It is sunny.", [], "stop")


def check_arguments(name, text):
    arguments = json.loads(text)
    if name == "get_weather":
        assert set(arguments) == {"city", "unit"} and arguments["unit"] in ("C", "F")
    else:
        assert name == "stop" and arguments == {}


def test_required(client):
    for fields in ({}, {"temperature": 1.2, "seed": 1}, {"temperature": 1.2, "seed": 2}):
        choice = ask(client, tool_choice="required", parallel_tool_calls=False, **fields).choices[0]
        [call] = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls"
        check_arguments(call.function.name, call.function.arguments)
    content, calls, reason = collect(ask(client, tool_choice="required", parallel_tool_calls=False, stream=True))
    assert content == "" and reason == "tool_calls" and len(calls) == 1
    check_arguments(*calls[0])


def test_named(client):
    choose = {"type": "function", "function": {"name": "get_weather"}}
    choice = ask(client, tool_choice=choose).choices[0]
    [call] = choice.message.tool_calls
    assert call.function.name == "get_weather" and choice.finish_reason == "stop"
    check_arguments("get_weather", call.function.arguments)
    content, calls, _ = collect(ask(client, tool_choice=choose, stream=True))
    assert content == "" and calls == [["get_weather", call.function.arguments]]


def test_none_answers_in_words(client):
    choice = ask(client, tool_choice="none", max_tokens=8).choices[0]
    assert choice.message.content and not choice.message.tool_calls


def test_a_conversation_with_results_goes_on(client):
    call = {"id": "chatcmpl-tool-1", "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "Paris", "unit": "C"}'}}
    history = QUESTION + [{"role": "assistant", "content": None, "tool_calls": [call]},
                          {"role": "tool", "tool_call_id": "chatcmpl-tool-1", "content": "21 degrees"}]
    assert ask(client, messages=history, tool_choice="none", max_tokens=8).choices[0].message.content


@pytest.mark.parametrize("fields, words", [
    ({"tool_choice": {"type": "function", "function": {"name": "nothing"}}}, "not among"),
    ({"tool_choice": "perhaps"}, "tool_choice must be"),
    ({"tools": [{"type": "function"}]}, "a tool must be"),
    ({"tools": [], "tool_choice": "required"}, "`tools` must be set"),
    ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "cannot go together"),
])
def test_refusals(server, fields, words):
    status, answer = server.request("POST", "/v1/chat/completions", {"messages": QUESTION, "tools": TOOLS, **fields})
    assert status == 400 and words in answer["error"]["message"], answer


def test_auto_needs_its_flags():
    with Server(DEFAULT_MODEL, "--max-model-len", 512) as running:
        status, answer = running.request("POST", "/v1/chat/completions", {"messages": QUESTION, "tools": TOOLS})
        assert status == 400 and "--enable-auto-tool-choice" in answer["error"]["message"]
        answer = running.post("/v1/chat/completions", messages=QUESTION, tools=TOOLS, tool_choice="required",
                              max_tokens=100, temperature=0)
        assert answer["choices"][0]["message"]["tool_calls"]


def test_the_template_sees_tools_and_kwargs(tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text("{{ tools[0].function.name if tools else 'no tools' }} {{ mood }} {{ messages[-1].content }}")
    with Server(DEFAULT_MODEL, "--max-model-len", 512, "--chat-template", template,
                "--exclude-tools-when-tool-choice-none") as running:
        def prompt(**fields):
            answer = running.post("/v1/chat/completions", messages=QUESTION, max_tokens=1, return_token_ids=True,
                                  chat_template_kwargs={"mood": "merry"}, tools=TOOLS, **fields)
            return running.post("/detokenize", tokens=answer["prompt_token_ids"])["prompt"]

        assert prompt(tool_choice="required") == "get_weather merry What is the weather in Paris?"
        assert prompt(tool_choice="none") == "no tools merry What is the weather in Paris?"
