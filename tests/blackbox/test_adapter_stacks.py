"""Several adapters for one request: "model": "a+b", or "adapters" with weights."""

import concurrent.futures
import json

import pytest
from harness import DATA, Server
from training import export

MODEL = DATA / "models" / "llama_plain_tied"
ADAPTERS = DATA / "adapters" / "llama_plain_tied"
EXACT = ["--dtype", "float32", "--lora-dtype", "float32", "--kv-cache-dtype", "float32", "--skip-tokenizer-init"]
PROMPT = [5, 17, 99, 42, 7, 130, 61]


def modules():
    return ["--enable-lora", "--lora-modules", *(f"{name}={ADAPTERS / name}" for name in ("r8_all", "r4_attn", "patterns"))]


@pytest.fixture(scope="module")
def server():
    with Server(MODEL, "--served-model-name", "base", *EXACT, *modules()) as running:
        yield running


def ask(server, **body):
    return server.complete(prompt=PROMPT, max_tokens=16, temperature=0, ignore_eos=True, logprobs=3,
                           return_token_ids=True, **body)


def log_probabilities(choice):
    return choice["logprobs"]["token_logprobs"]


def outcome(choice):
    return json.dumps([choice["token_ids"], choice["logprobs"]])


def test_a_stack_is_the_merged_sum(server, tmp_path):
    both = tmp_path / "both"
    export(MODEL, both, f"adapter_name_or_path={ADAPTERS / 'r8_all'},{ADAPTERS / 'r4_attn'}", "infer_dtype=float32")
    stacked = ask(server, model="r8_all+r4_attn")
    with Server(both, *EXACT) as merged:
        expected = ask(merged)
    assert stacked["token_ids"] == expected["token_ids"]
    assert log_probabilities(stacked) == pytest.approx(log_probabilities(expected), abs=2e-4)


def test_weights(server):
    one = ask(server, model="r8_all")
    assert outcome(ask(server, model="base", adapters=[{"name": "r8_all"}])) == outcome(one)
    assert outcome(ask(server, adapters=[{"name": "r8_all", "weight": 1}, {"name": "patterns", "weight": 0}])) == outcome(one)
    assert outcome(ask(server, adapters=[{"name": "r8_all", "weight": 0.5}])) != outcome(one)
    nothing = ask(server, adapters=[{"name": "r8_all", "weight": 0}, {"name": "patterns", "weight": 0}])
    assert outcome(nothing) == outcome(ask(server, model="base"))


def test_stacks_share_batches_with_everyone(server):
    bodies = [{"model": name} for name in ("base", "r8_all", "r8_all+patterns", "patterns+r8_all", "r4_attn")]
    bodies += [{"adapters": [{"name": "patterns", "weight": weight}, {"name": "r4_attn"}]} for weight in (0.25, -1.5)]
    alone = [outcome(ask(server, **body)) for body in bodies]
    assert len(set(alone)) == len(bodies)
    with concurrent.futures.ThreadPoolExecutor(len(bodies) * 2) as pool:
        together = list(pool.map(lambda body: outcome(ask(server, **body)), bodies * 2))
    assert together == alone * 2


@pytest.mark.parametrize("body,status,part", [
    ({"model": "r8_all+missing"}, 404, "The model `missing` does not exist"),
    ({"model": "r8_all+r8_all"}, 400, "given twice"),
    ({"model": "r8_all", "adapters": [{"name": "patterns"}]}, 400, "`adapters` goes with the base model"),
    ({"adapters": [{"weight": 1}]}, 400, "body.adapters.0.name"),
    ({"adapters": [{"name": "r8_all", "weight": "much"}]}, 400, "weight"),
    ({"adapters": [{"name": "r8_all"}] * 17}, 400, "at most 16 adapters"),
])
def test_refusals(server, body, status, part):
    got, answer = server.request("POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": 4, **body})
    assert got == status
    assert part in json.dumps(answer)
