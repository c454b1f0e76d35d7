"""Output that must have a shape: the openai client's response_format and vLLM's spellings of it."""

import concurrent.futures
import json
import re

import openai
import pydantic
import pytest
from harness import DEFAULT_MODEL, Server

pytestmark = pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}")

QUESTION = [{"role": "user", "content": "Describe a person named Ada, aged 36, as JSON."}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server():
    with Server(DEFAULT_MODEL, "--served-model-name", "base", "--max-model-len", 1024) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def ask(client, max_tokens=120, **fields):
    answer = client.chat.completions.create(model="base", messages=QUESTION, max_tokens=max_tokens, **fields)
    return answer.choices[0]


def check_person(text):
    person = json.loads(text)
    assert list(person) == ["name", "age", "tags"]
    assert isinstance(person["name"], str) and len(person["name"]) <= 12
    assert type(person["age"]) is int and 0 <= person["age"] <= 150
    assert len(person["tags"]) <= 2 and set(person["tags"]) <= {"a", "b"}


def json_schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def test_json_schema_holds_greedy_and_sampled(client):
    for fields in ({"temperature": 0}, *({"temperature": 1.5, "seed": seed} for seed in range(8))):
        choice = ask(client, response_format=json_schema(PERSON), **fields)
        assert choice.finish_reason == "stop"
        check_person(choice.message.content)


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=10)
    born: int = pydantic.Field(ge=1800, le=2020)
    alive: bool


def test_the_clients_parse_helper(client):
    answer = client.chat.completions.parse(model="base", messages=QUESTION, response_format=Person, max_tokens=100,
                                           temperature=0)
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_json_object(client):
    choice = ask(client, max_tokens=300, temperature=0, response_format={"type": "json_object"})
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    assert choice.message.content.startswith("{")


@pytest.mark.parametrize("body", [
    {"guided_choice": ["positive", "negative"]},
    {"structured_outputs": {"choice": ["positive", "negative"]}},
])
def test_choice(client, body):
    for temperature in (0, 2):
        assert ask(client, temperature=temperature, extra_body=body).message.content in ("positive", "negative")


@pytest.mark.parametrize("body", [
    {"guided_regex": r"\d{3}-\d{4}"},
    {"structured_outputs": {"regex": r"^\d{3}-\d{4}$"}},
])
def test_regex(client, body):
    assert re.fullmatch(r"\d{3}-\d{4}", ask(client, temperature=1, extra_body=body).message.content)


@pytest.mark.parametrize("schema", [PERSON, json.dumps(PERSON)])
def test_guided_json_on_completions(client, schema):
    answer = client.completions.create(model="base", prompt="Ada:", max_tokens=120, temperature=0.7, seed=3,
                                       extra_body={"guided_json": schema})
    check_person(answer.choices[0].text)


def test_streamed_equals_whole_with_logprobs(client):
    fields = dict(response_format=json_schema(PERSON), temperature=0, logprobs=True)
    whole = ask(client, **fields)
    stream = client.chat.completions.create(model="base", messages=QUESTION, max_tokens=120, stream=True, **fields)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.message.content
    assert all(entry.logprob > -9999 for entry in whole.logprobs.content)


def test_ignore_eos_and_min_tokens_do_not_break_the_document(client):
    choice = ask(client, temperature=0, extra_body={"guided_choice": ["yes", "no"], "ignore_eos": True, "min_tokens": 50})
    assert choice.message.content in ("yes", "no") and choice.finish_reason == "stop"


def test_the_length_limit_cuts(client):
    choice = ask(client, max_tokens=3, temperature=0, response_format=json_schema(PERSON))
    assert choice.finish_reason == "length"


def test_alone_and_in_a_crowd(server):
    """Neighbours with the same grammar, others, and none change nothing."""
    bodies = []
    for seed in range(12):
        body = {"model": "base", "prompt": f"Person {seed}:", "max_tokens": 60, "temperature": 0.9, "seed": seed, "logprobs": 1}
        kind = seed % 4
        if kind == 0:
            body["guided_json"] = PERSON
        elif kind == 1:
            body["guided_regex"] = r"([a-z]{1,8} ){2,6}end"
        elif kind == 2:
            body["response_format"] = {"type": "json_object"}
        bodies.append(body)

    def run(body):
        return server.post("/v1/completions", **body)["choices"][0]

    alone = [run(body) for body in bodies]
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        crowd = list(pool.map(run, bodies))
    assert crowd == alone


@pytest.mark.parametrize("fields, words", [
    ({"guided_json": {"type": "object", "patternProperties": {"a": {}}}}, "patternProperties"),
    ({"guided_json": {"$ref": "#/nowhere"}}, "points to nothing"),
    ({"guided_regex": "(a"}, "regular expression"),
    ({"guided_regex": "((a{1000}){1000})"}, "too large"),
    ({"guided_choice": []}, "choices"),
    ({"guided_choice": ["a"], "guided_regex": "a"}, "one kind"),
    ({"guided_grammar": "root ::= 'a'"}, "guided_grammar"),
    ({"structured_outputs": {"grammar": "root ::= 'a'"}}, "grammar"),
    ({"response_format": {"type": "json_schema"}}, "json_schema"),
    ({"response_format": {"type": "yaml"}}, "yaml"),
])
def test_what_is_not_supported_is_a_clear_400(server, fields, words):
    status, answer = server.request("POST", "/v1/completions", {"prompt": "a", "max_tokens": 5, **fields})
    assert status == 400 and words in answer["error"]["message"], answer


def test_a_contradiction_ends_the_request_only(server):
    status, answer = server.request("POST", "/v1/completions", {
        "prompt": "a", "max_tokens": 5, "guided_choice": ["yes"], "allowed_token_ids": [5]})
    assert status == 400 and "no token satisfies" in answer["error"]["message"], answer
    assert server.post("/v1/completions", prompt="a", max_tokens=1)["choices"]
