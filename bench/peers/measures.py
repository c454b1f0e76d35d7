"""What is measured: each function drives an engine for one round and returns {row's name: tokens per second}."""

import random

VOCABULARY = (300, 40000)  # plain tokens in every model here
STREAMS = 16


def prompts(seed, count, tokens):
    """Distinct, and new in every round, so that no prefix is cached."""
    rng = random.Random(seed)
    return [[rng.randrange(*VOCABULARY) for _ in range(tokens)] for _ in range(count)]


def job(seed, count, prompt_tokens, max_tokens, adapters=None, concurrency=STREAMS):
    return {"prompts": prompts(seed, count, prompt_tokens), "adapters": adapters or [None] * count,
            "max_tokens": max_tokens, "concurrency": concurrency}


def tokens_of(run):
    return sum(stream["tokens"] for stream in run["streams"])


def decode_rate(run):
    """From the first stream's first token to the last stream's last: what prefill is left in there counts against it."""
    streams = run["streams"]
    seconds = max(s["last"] for s in streams) - min(s["first"] for s in streams)
    return sum(s["tokens"] - 1 for s in streams) / seconds


def workload(adapters):
    """W: 32 requests, 16 at a time, 128 prompt tokens, 128 output tokens. `adapters`: {row: one adapter per request}."""
    def measure(engine, seed):
        rates = {}
        for row, chosen in adapters.items():
            run = engine.generate(job(f"{row} {seed}", 32, 128, 128, chosen))
            rates[row] = tokens_of(run) / run["seconds"]
        return rates
    return measure


MERGED = {"W, merged": [None] * 32}
ADAPTERS = {"W, one adapter": [0] * 32, "W, 16 adapters": [i % 16 for i in range(32)]}


def warm_up(engine, adapters):
    """Kernels compiled, adapters in memory: as a server is that has been up for a minute."""
    for chosen in adapters.values():
        engine.generate(job("warm-up", len(chosen), 128, 4, chosen))


def single_stream(engine, seed):
    prefill = engine.generate(job(f"prefill {seed}", 1, 512, 2))
    decode = engine.generate(job(f"decode {seed}", 1, 8, 128))
    return {"prefill 512": 512 / prefill["streams"][0]["first"], "decode, 1 stream": decode_rate(decode)}


def batch(engine, seed):
    return {"decode, 16 streams": decode_rate(engine.generate(job(f"batch {seed}", STREAMS, 64, 64)))}


def llama_single_stream(engine, _seed):
    prefill, decode = engine.prefill_and_decode(512, 128)
    return {"prefill 512": prefill, "decode, 1 stream": decode}


def llama_batch(engine, _seed):
    return {"decode, 16 streams": engine.batched_decode(STREAMS, 64, 64)}
