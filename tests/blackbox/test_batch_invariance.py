"""A reply does not depend on its neighbours: bit for bit, ids and logprobs, alone or among 64 requests over 16
adapters, a stack of them and the base, chunked, cached or not."""

import concurrent.futures
import json
import random
import time

import pytest
from harness import DEFAULT_MODEL, Server, write_adapter

pytestmark = pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    root = tmp_path_factory.mktemp("invariance")
    return [write_adapter(root / f"a{i:02d}", seed=i, rank=(4, 8, 16, 32)[i % 4]) for i in range(16)]


def make_requests(count, rng):
    prefix = [rng.randrange(300, 40000) for _ in range(70)]  # several requests share it: the prefix cache has work
    for i in range(count):
        own = [rng.randrange(300, 40000) for _ in range(rng.choice((1, 3, 17, 40, 150, 400)))]
        body = {"model": "base" if i % 17 == 16 else f"a{i % 17:02d}",
                "prompt": (prefix + own if i % 3 == 0 else own), "max_tokens": rng.choice((4, 12, 24)),
                "ignore_eos": True, "logprobs": 5, "return_token_ids": True}
        if i % 9 == 4:
            body.update(model="a03+a08+a12")
        if i % 2:
            body.update(temperature=0)
        else:
            body.update(temperature=0.8, top_p=0.9, top_k=50, seed=i)
        yield body


def outcome(choice):
    return json.dumps([choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]])


@pytest.mark.parametrize("extra", [[], ["--dtype", "bfloat16"], ["--kv-cache-dtype", "int8"]],
                         ids=["gguf-q4", "bf16", "int8-kv"])
def test_alone_equals_in_company(adapters, extra):
    rng = random.Random(7)
    bodies = list(make_requests(64, rng))
    modules = [f"{path.name}={path}" for path in adapters]
    common = ["--served-model-name", "base", "--enable-lora", "--lora-modules", *modules, *extra]
    with Server(DEFAULT_MODEL, *common, "--no-enable-prefix-caching") as idle:
        alone = [outcome(idle.complete(**body)) for body in bodies]
    crowded_flags = ["--max-num-batched-tokens", 96, "--max-num-seqs", 40]
    with Server(DEFAULT_MODEL, *common, *crowded_flags) as crowded:
        def delayed(body):
            time.sleep(rng.random() * 0.5)
            return outcome(crowded.complete(**body))

        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            together = list(pool.map(delayed, bodies))
            again = list(pool.map(delayed, bodies))  # now with prefixes in the cache
        assert crowded.metric("vllm:prefix_cache_hits_total") > 0
    different = [i for i in range(len(bodies)) if not alone[i] == together[i] == again[i]]
    assert not different, f"requests {different} changed in company"
