#!/usr/bin/env python3
"""Load on a running server: streaming completions of random token ids, several at a time, models taken in turn.

  bench/serve_load.py http://127.0.0.1:8000 --models base,a00,a01 --requests 32 --concurrency 16

Prints output tokens per second over the whole run, and the medians of the time to the first token and of the gaps
between tokens. Standard library only.
"""

import argparse
import concurrent.futures
import http.client
import json
import random
import statistics
import time
import urllib.parse


def stream_one(address, body):
    """Arrival times of the tokens, measured from the request's start."""
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=600)
    began = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"HTTP {response.status}: {response.read(400)!r}")
    arrivals, tokens = [], 0
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if "error" in chunk:
            raise SystemExit(chunk["error"])
        if chunk["choices"]:
            arrivals.append(time.perf_counter() - began)
        if chunk.get("usage"):
            tokens = chunk["usage"]["completion_tokens"]
    connection.close()
    return arrivals, tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--models", default="base")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--vocabulary", default="300:40000", help="range of the random token ids")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()

    rng = random.Random(flags.seed)
    low, high = map(int, flags.vocabulary.split(":"))
    models = flags.models.split(",")
    bodies = [{"model": models[i % len(models)], "prompt": [rng.randrange(low, high) for _ in range(flags.prompt_tokens)],
               "max_tokens": flags.output_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
               "stream_options": {"include_usage": True}} for i in range(flags.requests)]
    address = urllib.parse.urlparse(flags.url)
    stream_one(address, {**bodies[0], "max_tokens": 2, "prompt": [low] * 4})  # warm-up

    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(flags.concurrency) as pool:
        results = list(pool.map(lambda body: stream_one(address, body), bodies))
    seconds = time.perf_counter() - began
    first = [arrivals[0] for arrivals, _ in results]
    gaps = [later - earlier for arrivals, _ in results for earlier, later in zip(arrivals, arrivals[1:])]
    print(json.dumps({
        "models": len(models), "concurrency": flags.concurrency, "requests": flags.requests,
        "output_tokens_per_s": round(sum(tokens for _, tokens in results) / seconds, 1),
        "ttft_p50_ms": round(1000 * statistics.median(first), 1),
        "itl_p50_ms": round(1000 * statistics.median(gaps), 2)}))


if __name__ == "__main__":
    main()
