#!/usr/bin/env python3
"""Instructions that serving spends around the model, per generated token and per request, counted by callgrind: the
same on a busy machine as on an idle one, so that a regression can be seen anywhere.

  bench/instruction_counts.py [--server build/polylora] [--streams 16] [--adapters 0]

A one-layer model of random weights with SmolLM2's tokenizer and vocabulary answers streaming completions, all at the
same time, for two lengths of answer. The difference of the two counts is what tokens cost; the rest is what a
request costs. Needs valgrind; otherwise standard library only.
"""

import argparse
import concurrent.futures
import http.client
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "tests/data/text/tokenizers/smollm2"
VOCABULARY = 49152
SHORT, LONG = 8, 24  # tokens of an answer

# The lines of the table, and the functions whose inclusive costs, in whatever thread, make them up.
HTTP = "HTTP threads, all"
PARTS = {
    "scheduler: plan and advance": ["polylora::EngineCore::schedule("],
    "sampler": ["polylora::Sampler::Workspace::draw("],
    "engine: events, finished requests": ["polylora::EngineCore::report(", "polylora::EngineCore::deliver("],
    HTTP: [],
    "  of that, detokenising": ["polylora::OutputAssembler::take("],
    "  of that, writing JSON": ["polylora::(anonymous namespace)::CompletionWriter::chunk("],
}
OTHER_THREADS = ["polylora::EngineCore::step(", "polylora::Sampler::Workspace::draw("]  # not HTTP's

# The random model's logits are nearly equal; divided by so low a temperature they spread as a trained model's do.
SAMPLING = {"greedy": {"temperature": 0}, "top-p 0.9": {"temperature": 0.02, "top_p": 0.9, "seed": 7}}


def make_model(folder, adapters):
    maker = [sys.executable, str(ROOT / "bench/make_model.py"), str(folder), "--layers=1", "--hidden=16",
             "--intermediate=16", "--heads=1", "--kv-heads=1", f"--vocab={VOCABULARY}", "--rank=8"]
    subprocess.run(maker, check=True)
    for name in adapters:
        subprocess.run([*maker, "--adapter", str(folder / "adapters" / name)], check=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)


class CountedServer:
    """`polylora serve` under callgrind, which counts only while told to."""

    def __init__(self, server, model, adapters, folder):
        self.output = folder / "callgrind.out"
        lora = ["--enable-lora", "--lora-modules", str(model / "adapters")] if adapters else []
        self.process = subprocess.Popen(
            ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes", "--fair-sched=yes",
             f"--callgrind-out-file={self.output}", server, "serve", str(model), "--served-model-name", "base",
             "--threads", "1", "--port", "0", "--kv-cache-memory", "64M", "--disable-uvicorn-access-log", *lora],
            stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"listening on (http://\S+)", line):
                self.address = urllib.parse.urlparse(found[1])
                return
        raise SystemExit("the server did not start under valgrind")

    def control(self, *arguments):
        subprocess.run(["callgrind_control", *arguments, str(self.process.pid)], check=True, capture_output=True)

    def count(self, load):
        """Files with the counts, one for each thread, of what the server does during load()."""
        self.control("-z")
        self.control("-i", "on")
        load()
        self.control("-i", "off")
        before = set(self.output.parent.glob("callgrind.out.*"))
        self.control("-d")
        return sorted(set(self.output.parent.glob("callgrind.out.*")) - before)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate(timeout=120)


def stream(address, body):
    """One streaming completion; the number of chunks that came."""
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=600)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"HTTP {response.status}: {response.read(400)!r}")
    return sum(line.startswith(b"data: {") for line in response)


def load(address, models, streams, tokens, sampling):
    bodies = [{"model": models[i % len(models)], "prompt": [1000 + 17 * i + j for j in range(8)], "max_tokens": tokens,
               "ignore_eos": True, "stream": True, **sampling} for i in range(streams)]
    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
        return sum(pool.map(lambda body: stream(address, body), bodies))


def inclusive_costs(file):
    """{function: instructions, with what it calls} of a thread, and the thread's total."""
    text = subprocess.run(["callgrind_annotate", "--inclusive=yes", "--threshold=100", str(file)], check=True,
                          capture_output=True, text=True).stdout
    costs, total = {}, 0
    for line in text.splitlines():
        found = re.match(r"\s*([\d,]+) \([^)]*\)\s+(.*)$", line)
        if not found:
            continue
        instructions = int(found[1].replace(",", ""))
        if found[2].startswith("PROGRAM TOTALS"):
            total = instructions
        else:
            name = found[2].split(":", 1)[1].split(" [")[0]
            costs[name] = max(costs.get(name, 0), instructions)
    return costs, total


def cost_of(costs, functions):
    return sum(cost for name, cost in costs.items() if name.startswith(tuple(functions)))


def parts_of(files):
    """{line of the table: instructions}"""
    parts = dict.fromkeys(PARTS, 0)
    for costs, total in map(inclusive_costs, files):
        for line, functions in PARTS.items():
            parts[line] += cost_of(costs, functions) if functions else 0
        parts[HTTP] += 0 if cost_of(costs, OTHER_THREADS) else total
    return parts


def measure(server, label, models, streams, sampling):
    load(server.address, models, streams, 4, sampling)  # warms up
    counts, chunks = {}, {}
    for tokens in (SHORT, LONG):
        def run():
            chunks[tokens] = load(server.address, models, streams, tokens, sampling)
        counts[tokens] = parts_of(server.count(run))
    chunks_a_token = chunks[LONG] / (streams * LONG)
    print(f"\n{label:36} {'per token':>10} {'per request':>12}   ({chunks_a_token:.2f} chunks a token)")
    for line in PARTS:
        per_token = (counts[LONG][line] - counts[SHORT][line]) / (streams * (LONG - SHORT))
        per_request = counts[SHORT][line] / streams - SHORT * per_token
        print(f"{line:36} {per_token:10,.0f} {per_request:12,.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default=str(ROOT / "build/polylora"))
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--adapters", type=int, default=0, help="distinct adapters that the streams use in turn; 0: none")
    flags = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        adapters = [f"a{i}" for i in range(flags.adapters)]
        make_model(folder / "model", adapters)
        models = adapters or ["base"]
        print(f"{flags.streams} streams, {flags.adapters} adapters, vocabulary {VOCABULARY}; instructions", flush=True)
        with CountedServer(flags.server, folder / "model", adapters, folder) as server:
            for label, sampling in SAMPLING.items():
                measure(server, label, models, flags.streams, sampling)


if __name__ == "__main__":
    main()
