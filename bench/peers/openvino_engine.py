#!/usr/bin/env python3
"""OpenVINO GenAI's continuous batching as a child of compare.py: a line of JSON in, a line of JSON out.

  openvino_engine.py IR_FOLDER [ADAPTER_FOLDER …]
  {"prompts": [[ids]…], "adapters": [index or null, one per prompt], "max_tokens": 128, "concurrency": 16}
  → {"seconds": 9.8, "streams": [{"first": 0.3, "last": 4.9, "tokens": 128}…]}, times from the start of the batch

A batch runs with the adapter of its first request whatever the others ask for, so requests of different adapters are
run one group after the other, as a client has to do that wants right answers.
"""

import json
import pathlib
import sys
import time

import numpy as np
import openvino
import openvino_genai as genai

MAX_STREAMS = 16


def scheduler():
    config = genai.SchedulerConfig()
    config.cache_size = 2  # GB
    config.max_num_seqs = MAX_STREAMS
    config.max_num_batched_tokens = 2048
    config.enable_prefix_caching = False
    return config


def load_adapter(folder):
    """With its scale: GenAI does not read lora_alpha and r itself."""
    config = json.loads((folder / "adapter_config.json").read_text())
    return genai.Adapter(folder / "adapter_model.safetensors"), config["lora_alpha"] / config["r"]


class Engine:
    def __init__(self, folder, adapter_folders):
        self.adapters = [load_adapter(path) for path in adapter_folders]
        properties = {"adapters": genai.AdapterConfig(self.adapters)} if self.adapters else {}
        self.pipeline = genai.ContinuousBatchingPipeline(folder, scheduler(), "CPU", properties)

    def config(self, max_tokens, adapter):
        config = genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.ignore_eos = True
        config.do_sample = False
        if self.adapters:
            config.adapters = genai.AdapterConfig([] if adapter is None else [self.adapters[adapter]])
        return config

    def generate(self, prompts, adapter, max_tokens):
        tensors = [openvino.Tensor(np.array([prompt], np.int64)) for prompt in prompts]
        return self.pipeline.generate(tensors, [self.config(max_tokens, adapter)] * len(prompts))

    def run(self, job):
        if job["concurrency"] > MAX_STREAMS:
            raise SystemExit(f"at most {MAX_STREAMS} streams at a time")
        began, streams = time.perf_counter(), []
        for adapter in dict.fromkeys(job["adapters"]):
            prompts = [p for p, wanted in zip(job["prompts"], job["adapters"]) if wanted == adapter]
            streams += map(stream_of, self.generate(prompts, adapter, job["max_tokens"]))
        return {"seconds": time.perf_counter() - began, "streams": streams}


def stream_of(result):
    metrics = result.perf_metrics
    return {"first": metrics.get_ttft().mean / 1e3, "last": metrics.get_generate_duration().mean / 1e3,
            "tokens": len(result.m_generation_ids[0])}


def main():
    engine = Engine(sys.argv[1], [pathlib.Path(path) for path in sys.argv[2:]])
    print(json.dumps({"version": genai.get_version()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(engine.run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
