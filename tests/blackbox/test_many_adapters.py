"""A thousand registered adapters under a byte budget, and a thousand rounds of load and unload under traffic."""

import os
import random
import threading

import pytest
from harness import DEFAULT_MODEL, Server, write_adapter

pytestmark = pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}")

MIB = 1 << 20


def answer(server, name, seed):
    return server.complete(model=name, prompt=[1 + seed % 900, 500, 700], max_tokens=2, temperature=0, ignore_eos=True,
                           return_token_ids=True)["token_ids"]


def test_a_thousand_adapters(tmp_path):
    originals = [write_adapter(tmp_path / f"original-{i}", seed=i) for i in range(10)]
    folder = tmp_path / "adapters"
    for i in range(1000):  # hard links: a thousand folders, ten contents, little disk
        (folder / f"x{i:04d}").mkdir(parents=True)
        for file in originals[i % 10].iterdir():
            os.link(file, folder / f"x{i:04d}" / file.name)
    budget = 256 * MIB
    with Server(DEFAULT_MODEL, "--served-model-name", "base", "--enable-lora", "--lora-modules", folder, "--lora-memory",
                budget, "--max-model-len", 2048, "--kv-cache-memory", 128 * MIB) as server:
        assert server.start_seconds < 5
        assert len(server.request("GET", "/v1/models")[1]["data"]) == 1001
        base = server.resident_bytes()
        names = [f"x{i:04d}" for i in range(1000)]
        random.Random(3).shuffle(names)
        replies = dict(zip(names, server.complete_all(
            [dict(model=name, prompt=[17, 500, 700], max_tokens=2, temperature=0, ignore_eos=True,
                  return_token_ids=True) for name in names], workers=32)))
        for name in names:  # equal content, equal answer: nobody got a neighbour's adapter
            twin = f"x{int(name[1:]) % 10:04d}"
            assert replies[name]["token_ids"] == replies[twin]["token_ids"], name
        assert len({tuple(replies[f"x{i:04d}"]["token_ids"]) for i in range(10)}) > 1
        assert server.resident_bytes() - base < budget + 96 * MIB


def test_load_and_unload_under_traffic_leaks_nothing(tmp_path):
    paths = [write_adapter(tmp_path / f"v{i}", seed=i, rank=4) for i in range(4)]
    stop = threading.Event()
    failures = []
    with Server(DEFAULT_MODEL, "--served-model-name", "base", "--enable-lora", "--lora-modules",
                f"steady={paths[0]}", "--max-model-len", 2048, "--kv-cache-memory", 128 * MIB, "--disable-uvicorn-access-log") as server:
        expected = answer(server, "steady", 1)

        def traffic():
            while not stop.is_set():
                if answer(server, "steady", 1) != expected:
                    failures.append("steady changed its answer")

        threads = [threading.Thread(target=traffic) for _ in range(2)]
        for thread in threads:
            thread.start()
        sizes = []
        for round_number in range(1000):
            path = paths[round_number % 4]
            server.post("/v1/load_lora_adapter", lora_name="hot", lora_path=str(path))
            if round_number % 10 == 0:
                answer(server, "hot", round_number)
            server.post("/v1/load_lora_adapter", lora_name="hot", lora_path=str(paths[1]), load_inplace=True)
            server.post("/v1/unload_lora_adapter", lora_name="hot")
            if round_number % 100 == 99:
                sizes.append(server.resident_bytes())
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert server.metric("vllm:num_cpu_loaded_lora_adapters") == 1
    assert max(sizes[5:]) - sizes[2] < 24 * MIB, sizes
