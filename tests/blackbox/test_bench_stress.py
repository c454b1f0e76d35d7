"""`polylora bench stress` as a user runs it, on a tiny model: the grid, the reports, thresholds, and what it leaves."""

import json
import pathlib
import re
import signal
import subprocess
import time

import pytest
from harness import BINARY, DATA

TINY = DATA / "models" / "llama_bf16_tied"
QUICK = ["--rounds", 2, "--input-len", 4, "--output-len", 4, "--concurrency", "1,2", "--ranks", "4"]
SERVE = ["--", "--skip-tokenizer-init", "--kv-cache-memory", "16M", "--threads", 1]


def command(*arguments):
    return [str(BINARY), "bench", "stress", str(TINY), *map(str, [*QUICK, *arguments, *SERVE])]


def stress(*arguments, expect=0):
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60)
    assert done.returncode == expect, (done.stdout, done.stderr)
    return done


def servers_of(folder):
    """Command lines of live processes that mention the folder."""
    lines = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return [line for line in lines if str(folder) in line and "serve" in line.split("\0")]


def test_grid_and_reports(tmp_path):
    work, results, page = tmp_path / "work", tmp_path / "r.json", tmp_path / "r.html"
    done = stress("--popularity", "one,identical,uniform,zipf,distinct", "--adapters", "1,5", "--churn",
                  "--churn-interval", 0.005, "--work-dir", work, "--json", results, "--html", page,
                  "--lora-memory", "64M")
    report = json.loads(results.read_text())
    names = [cell["name"] for cell in report["cells"]]
    assert names[:4] == ["one/1/r4/c1", "one/1/r4/c1/churn", "one/1/r4/c2", "one/1/r4/c2/churn"]
    assert len(names) == 20 and "zipf/5/r4/c2/churn" in names
    for cell in report["cells"]:
        assert cell["merged"]["failed"] == cell["multi_adapter"]["failed"] == 0
        assert cell["multi_adapter"]["completed"] == 2 * 2 * cell["concurrency"]
        assert len(cell["ratio"]["rounds"]) == 2
        assert cell["ratio"]["min"] <= cell["ratio"]["median"] <= cell["ratio"]["max"]
        assert 0 < cell["fairness"] <= 1 and cell["multi_adapter"]["resident_bytes"] > 0
        assert cell["name"] in done.stdout
    assert sum(cell["churn_calls"]["done"] for cell in report["cells"] if cell["churn"]) > 0
    assert report["violations"] == [] and report["facts"]["base"].startswith(str(TINY))
    text = page.read_text()
    assert text.count("<svg") >= 4 and "zipf/5/r4/c2/churn" in text and "http" not in text
    assert (work / "merged" / "config.json").exists() and (work / "r4-0004" / "adapter_config.json").exists()
    assert "listening" in (work / "adapters.log").read_text()
    assert servers_of(work) == []


def test_given_adapters_and_merged_model(tmp_path):
    work = tmp_path / "work"
    stress("--adapters", 2, "--popularity", "distinct", "--work-dir", work)  # makes adapters and a merged model
    results = tmp_path / "r.json"
    stress("--adapters", "2,3", "--popularity", "distinct", "--lora-modules", f"x={work / 'r4-0000'}",
           f"y={work / 'r4-0001'}", "--merged", work / "merged", "--json", results)
    names = [cell["name"] for cell in json.loads(results.read_text())["cells"]]
    assert names == ["distinct/2/given/c1", "distinct/2/given/c2", "distinct/3/r4/c1", "distinct/3/r4/c2"]


def test_thresholds_decide_the_exit_status(tmp_path):
    results = tmp_path / "r.json"
    done = stress("--popularity", "one", "--min-ratio", 0.0001, "one/1/r4/c2=900", "--max-ttft-p99-ms", 60000,
                  "one/*/r4/c1=0", "--json", results, expect=1)
    lines = [line for line in done.stderr.splitlines() if "not met" in line]
    assert len(lines) == 2
    assert re.search(r"not met: one/1/r4/c1: TTFT p99 [\d.]+ ms is above 0.0 ms", lines[0])
    assert re.search(r"not met: one/1/r4/c2: ratio [\d.]+ is below 900.000", lines[1])
    assert len(json.loads(results.read_text())["violations"]) == 2
    stress("--popularity", "one", "--min-ratio", 0.0001)


def test_an_interrupt_leaves_nothing(tmp_path):
    work = tmp_path / "work"
    process = subprocess.Popen(command("--rounds", 100000, "--work-dir", work), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and len(servers_of(work)) < 1:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1 and "interrupted" in stderr
    assert servers_of(work) == []


@pytest.mark.parametrize("arguments, message", [
    (["--popularity", "skewed"], "'skewed' is not one of one, identical, uniform, zipf, distinct"),
    (["--adapters", "0"], "--adapters: '0' is not a whole number"),
    (["--ranks", "x"], "--ranks: 'x'"),
    (["--concurrency", "1,,2"], "empty item"),
    (["--min-ratio", "one/1/r4/c7=1"], "'one/1/r4/c7' is no cell of this run; there is: one/1/r4/c1"),
    (["--min-ratio", "fast"], "expected VALUE or CELL=VALUE"),
])
def test_usage_errors(arguments, message):
    assert message in stress(*arguments, expect=2).stderr


def test_a_server_that_does_not_start_says_why(tmp_path):
    done = subprocess.run(command("--work-dir", tmp_path) + ["--no-such-flag"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "a server did not start: unknown flag --no-such-flag" in done.stderr
