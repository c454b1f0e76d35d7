#!/usr/bin/env python3
"""Runs polylora beside llama.cpp and OpenVINO GenAI on this machine, in turns within one window, and prints a table.

  bench/peers/setup.sh DIR                 # once: builds the peers and their models, outside the repository
  bench/peers/compare.py DIR [--rounds 3] [--only REGEX] [--json FILE]

Every row is measured in rounds, polylora and each peer once a round, the order reversed from round to round. A cell is
the median with its extremes, in tokens per second; a ratio is the median of the rounds' own ratios. Beside them: the
read bandwidth and the bf16 peak of the machine, measured between the rounds. Standard library only.
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Callable

import engines
import measures

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


@dataclass
class Contender:
    name: str
    engine: Any
    measure: Callable  # (engine, seed) → {row: tokens/s}
    warm_up: Callable = lambda engine: None


@dataclass
class Group:
    """Contenders that are up at the same time and take turns."""
    title: str
    contenders: list


def workload_group(title, rows, adapters, flags):
    """`adapters`: folder names below smollm2/adapters."""
    folder, logs = flags.peers / "models" / "smollm2", flags.logs
    measure, warm_up = measures.workload(rows), lambda engine: measures.warm_up(engine, rows)
    hf_adapters = [folder / "adapters" / name for name in adapters]
    made = [("polylora", engines.polylora(flags.polylora, folder / "hf", flags.threads, logs / "polylora.log", adapters=hf_adapters)),
            ("llama.cpp", engines.llama_server(flags.peers / "llama.cpp/bin/llama-server", folder / "bf16.gguf", flags.threads,
                                               logs / "llama-server.log",
                                               [folder / "lora" / name / "adapter.gguf" for name in adapters])),
            ("OpenVINO", engines.OpenVino(flags.peers / "venv/bin/python", HERE / "openvino_engine.py", folder / "openvino",
                                          logs / "openvino.log", hf_adapters))]
    return Group(title, [Contender(name, engine, measure, warm_up) for name, engine in made])


def engine_group(title, model, weights, flags, with_batch):
    """Single streams, and a batch on request. llama.cpp is measured by its own benchmark, without HTTP."""
    folder, logs = flags.peers / "models" / model, flags.logs
    quantization = [] if weights == "bf16" else ["--quantization", weights]
    gguf = folder / {"bf16": "bf16.gguf", "q8": "q8_0.gguf", "q4": "q4_0.gguf"}[weights]
    ours, theirs = [measures.single_stream], [measures.llama_single_stream]
    if with_batch:
        ours.append(measures.batch)
        theirs.append(measures.llama_batch)
    run_all = lambda steps: lambda engine, seed: {row: rate for step in steps for row, rate in step(engine, seed).items()}
    warm_up = lambda engine: measures.warm_up(engine, {"": [None]})
    contenders = [
        Contender("polylora", engines.polylora(flags.polylora, folder / "hf", flags.threads, logs / "polylora.log",
                                               ["--skip-tokenizer-init", *quantization]), run_all(ours), warm_up),
        Contender("llama.cpp", engines.LlamaBench(flags.peers / "llama.cpp/bin", gguf, flags.threads, logs / "llama-bench.log"),
                  run_all(theirs))]
    if (model, weights) == ("smollm2", "bf16"):
        contenders.append(Contender("OpenVINO", engines.OpenVino(
            flags.peers / "venv/bin/python", HERE / "openvino_engine.py", folder / "openvino", logs / "openvino.log"),
            run_all(ours), warm_up))
    return Group(title, contenders)


def all_groups(flags):
    groups = [workload_group("SmolLM2 bf16, merged", measures.MERGED, [], flags),
              workload_group("SmolLM2 bf16, adapters", measures.ADAPTERS, [f"a{i:02}" for i in range(16)], flags)]
    for model, name in (("smollm2", "SmolLM2"), ("llama-1b", "1B shape")):
        for weights in ("bf16", "q8", "q4"):
            groups.append(engine_group(f"{name} {weights}", model, weights, flags, with_batch=weights == "bf16"))
    return [group for group in groups if re.search(flags.only, group.title)]


def probe(flags):
    command = [flags.polylora, "bench", "machine", "--json", "--threads", str(flags.threads)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def run_group(group, flags):
    """{"rows": {row: {contender: [tokens/s of each round]}}, "machine": [probe of each round]}"""
    rows, machine, started = {}, [], []
    try:
        for contender in group.contenders:
            contender.engine.start()
            started.append(contender)
            contender.warm_up(contender.engine)
        for number in range(flags.rounds):
            machine.append(probe(flags))
            for contender in group.contenders[:: -1 if number % 2 else 1]:
                for row, rate in contender.measure(contender.engine, number).items():
                    rows.setdefault(row, {}).setdefault(contender.name, []).append(rate)
                    print(f"{group.title}: round {number + 1}: {row}: {contender.name} {rate:.1f}", file=sys.stderr, flush=True)
    finally:
        for contender in started:
            contender.engine.stop()
    return {"rows": rows, "machine": machine}


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def cell(rates):
    return f"{number(statistics.median(rates))} ({number(min(rates))}–{number(max(rates))})" if rates else "–"


def ratio(ours, theirs):
    return f"{statistics.median(a / b for a, b in zip(ours, theirs)):.2f}×" if theirs else "–"


def machine_cell(machine, key):
    values = [state[key] for state in machine]
    return f"{min(values):.0f}–{max(values):.0f}"


def markdown(results, peers):
    head = ["tokens/s", "polylora", *peers, *(f"÷ {peer}" for peer in peers), "read GB/s", "bf16 GFLOP/s"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for title, result in results.items():
        for row, rates in result["rows"].items():
            cells = [f"{title}: {row}", cell(rates["polylora"]), *(cell(rates.get(peer)) for peer in peers),
                     *(ratio(rates["polylora"], rates.get(peer)) for peer in peers),
                     machine_cell(result["machine"], "read_gb_s"), machine_cell(result["machine"], "bf16_gflop_s")]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=pathlib.Path, help="what setup.sh made")
    parser.add_argument("--polylora", type=pathlib.Path, default=ROOT / "build/polylora")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="regular expression on the groups' titles")
    parser.add_argument("--without", action="append", default=[], metavar="PEER", help="leave a peer out: llama.cpp, OpenVINO")
    parser.add_argument("--json", type=pathlib.Path, help="write every round's numbers there")
    flags = parser.parse_args()
    flags.peers, flags.logs = flags.peers.resolve(), flags.peers.resolve() / "logs"
    flags.logs.mkdir(exist_ok=True)
    return flags


def main():
    flags = parse()
    peers = [peer for peer in ("llama.cpp", "OpenVINO") if peer not in flags.without]
    results = {}
    for group in all_groups(flags):
        group.contenders = [c for c in group.contenders if c.name not in flags.without]
        results[group.title] = run_group(group, flags)
        if flags.json:  # after every group: a run that is cut short has still said something
            flags.json.write_text(json.dumps(results, indent=1))
    print(markdown(results, peers))


if __name__ == "__main__":
    main()
