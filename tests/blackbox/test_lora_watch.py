"""`serve --lora-watch`: what a trainer writes while the server runs is served, replaced and removed without a restart."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import pytest
from harness import BINARY, DEFAULT_MODEL, ROOT, Server

pytestmark = pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}")

MIB = 1 << 20


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Two adapters with different answers."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed in (3, 8):
        subprocess.run([sys.executable, ROOT / "tests" / "tools" / "make_adapter.py", folder / str(seed), "--seed",
                        str(seed)], check=True)
    return {seed: folder / str(seed) for seed in (3, 8)}


def serve(*watched, modules=()):
    flags = ["--served-model-name", "base", "--enable-lora", "--max-model-len", 2048, "--kv-cache-memory", 128 * MIB,
             "--disable-uvicorn-access-log", "--lora-watch", *watched]
    return Server(DEFAULT_MODEL, *flags, *modules)


def save_as_the_trainer_does(adapter, target):
    """A folder under another name, renamed when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(adapter, target.parent / "tmp-checkpoint")
    os.rename(target.parent / "tmp-checkpoint", target)


def names(server):
    return [model["id"] for model in server.request("GET", "/v1/models")[1]["data"]][1:]


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def answer(server, name):
    return server.complete(model=name, prompt=[17, 500, 700], max_tokens=8, temperature=0, ignore_eos=True,
                           return_token_ids=True)["token_ids"]


def test_checkpoints_are_served_as_they_come_and_go(adapters, tmp_path):
    run = tmp_path / "saves" / "run"  # made by the trainer, later
    with serve(run) as server:
        assert names(server) == []
        base = answer(server, "base")
        save_as_the_trainer_does(adapters[3], run / "checkpoint-5")
        began = time.monotonic()
        assert wait_for(lambda: names(server) == ["run@5"])
        assert time.monotonic() - began < 2
        save_as_the_trainer_does(adapters[8], run / "checkpoint-10")
        assert wait_for(lambda: names(server) == ["run@5", "run@10"])
        five, ten = answer(server, "run@5"), answer(server, "run@10")
        assert len({tuple(base), tuple(five), tuple(ten)}) == 3

        shutil.rmtree(run / "checkpoint-5")  # save_total_limit
        for file in adapters[3].iterdir():  # the final adapter
            shutil.copy(file, run / file.name)
        assert wait_for(lambda: sorted(names(server)) == ["run", "run@10"])
        assert answer(server, "run") == five
        assert server.request("POST", "/v1/completions", {"model": "run@5", "prompt": "x"})[0] == 404

        for file in adapters[8].iterdir():  # trained again
            shutil.copy(file, run / file.name)
        assert wait_for(lambda: answer(server, "run") == ten)
        assert not any("not served" in line for line in server.log)


def test_what_is_there_is_served_from_the_start(adapters, tmp_path):
    for number, seed in ((5, 3), (10, 8)):
        save_as_the_trainer_does(adapters[seed], tmp_path / "a" / f"checkpoint-{number}")
    save_as_the_trainer_does(adapters[3], tmp_path / "b" / "checkpoint-7")
    with serve(f"first={tmp_path / 'a'}", tmp_path / "b", modules=["--lora-modules", f"b@7={adapters[8]}"]) as server:
        assert sorted(names(server)) == ["b@7", "first@10", "first@5"]
        assert answer(server, "b@7") == answer(server, "first@10"), "the name was given to another adapter"
        assert any("first@STEP" in line for line in server.log)


def test_a_slow_copy_is_not_published_half_written(adapters, tmp_path):
    run = tmp_path / "run"
    target = run / "checkpoint-5"
    weights = (adapters[3] / "adapter_model.safetensors").read_bytes()
    with serve(run) as server:
        target.mkdir(parents=True)
        shutil.copy(adapters[3] / "adapter_config.json", target)
        with open(target / "adapter_model.safetensors", "wb") as file:
            for part in range(4):
                file.write(weights[part * len(weights) // 4:(part + 1) * len(weights) // 4])
                file.flush()
                if part < 3:
                    time.sleep(0.4)
                    assert names(server) == []
        assert wait_for(lambda: names(server) == ["run@5"])
        copied = answer(server, "run@5")
        save_as_the_trainer_does(adapters[3], run / "checkpoint-6")
        assert wait_for(lambda: "run@6" in names(server))
        assert copied == answer(server, "run@6")
        assert not any("not served" in line for line in server.log)


def test_a_bad_adapter_is_told_once_and_harms_nobody(adapters, tmp_path):
    run = tmp_path / "run"
    with serve(run) as server:
        save_as_the_trainer_does(adapters[3], run / "checkpoint-5")
        bad = shutil.copytree(adapters[8], tmp_path / "bad")
        config = json.loads((bad / "adapter_config.json").read_text())
        (bad / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "IA3"}))
        save_as_the_trainer_does(bad, run / "checkpoint-10")
        assert wait_for(lambda: any("run@10" in line for line in server.log))
        (run / "unrelated").write_text("wakes the watcher")
        save_as_the_trainer_does(adapters[8], run / "checkpoint-15")
        assert wait_for(lambda: names(server) == ["run@5", "run@15"])
        told = [line for line in server.log if "run@10" in line]
        assert len(told) == 1 and "IA3" in told[0] and "warning" in told[0]


def test_removal_leaves_running_requests_alone(adapters, tmp_path):
    run = tmp_path / "run"
    body = dict(model="run@5", prompt=[17, 500, 700], max_tokens=150, temperature=0, ignore_eos=True,
                return_token_ids=True)
    with serve(run) as server:
        save_as_the_trainer_does(adapters[3], run / "checkpoint-5")
        assert wait_for(lambda: names(server) == ["run@5"])
        expected = server.complete(**body)["token_ids"]
        assert server.metric("vllm:request_success_total", adapter="run@5") == 1
        replies = []
        threads = [threading.Thread(target=lambda: replies.append(server.complete(**body)["token_ids"]))
                   for _ in range(3)]
        for thread in threads:
            thread.start()
        assert wait_for(lambda: server.metric("vllm:num_requests_running") == 3)
        shutil.rmtree(run / "checkpoint-5")
        assert wait_for(lambda: names(server) == [])
        assert server.metric("vllm:num_requests_running") == 3, "the requests ended before the adapter went"
        for thread in threads:
            thread.join()
        assert replies == [expected] * 3
        assert wait_for(lambda: server.metric("vllm:request_success_total", adapter="run@5") == 0)


def test_an_idle_server_uses_no_cpu(adapters, tmp_path):
    save_as_the_trainer_does(adapters[3], tmp_path / "run" / "checkpoint-5")
    with serve(tmp_path / "run") as server:
        def ticks():
            fields = pathlib.Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])

        time.sleep(1)
        before = ticks()
        time.sleep(3)
        assert ticks() - before <= 1, "hundredths of a second in three"


@pytest.mark.parametrize("flags,part", [
    (["--lora-watch", "saves/x"], "--enable-lora"),
    (["--enable-lora", "--lora-watch", "base=saves/x"], "'base' is taken"),
])
def test_usage_errors(flags, part):
    done = subprocess.run([BINARY, "serve", DEFAULT_MODEL, "--served-model-name", "base", *flags],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and part in done.stderr
