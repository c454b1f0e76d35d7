"""Several base models in one server: who answers, whose adapters are whose, one address, one budget, fair turns."""

import http.client
import json
import pathlib
import shutil
import signal
import subprocess
import threading
import time

import pytest
from harness import DATA, DEFAULT_MODEL, Server, read_safetensors, write_safetensors
from training import SHORT, binary, export, settings, write_datasets, write_tiny_model

MIB = 1 << 20
FIRST, SECOND = DATA / "models" / "llama_bf16_tied", DATA / "models" / "llama_plain_tied"
ADAPTERS = DATA / "adapters"
FIRST_ADAPTER, SECOND_ADAPTER = ADAPTERS / FIRST.name / "r8_all", ADAPTERS / SECOND.name / "r8_all"
COMMON = {"enable-lora": True, "skip-tokenizer-init": True, "max-model-len": 512, "kv-cache-memory": 32 * MIB,
          "disable-uvicorn-access-log": True}


class Fleet(Server):
    """A server whose bases are in a --config file, given here as its content."""

    def __init__(self, tmp_path, bases, args=(), **server):
        path = pathlib.Path(tmp_path) / "fleet.yaml"
        path.write_text(json.dumps({**COMMON, **server, "bases": bases}))  # JSON is YAML
        super().__init__(f"--config={path}", *args)


def two_bases(**flags):
    return [{"model": str(FIRST), "served-model-name": "first", **flags},
            {"model": str(SECOND), "served-model-name": ["second", "second-alias"], **flags}]


def refusal(tmp_path, bases, args=(), **server):
    """What a server that does not start says."""
    fleet = Fleet(tmp_path, bases, args, **server)
    run = subprocess.run(fleet.command, env=fleet.env, capture_output=True, text=True, timeout=60)
    assert run.returncode != 0
    return run.stderr


def ask(server, model, seed=0, max_tokens=24, **fields):
    choice = server.complete(model=model, prompt=[1, 17 + seed, 200, 33], max_tokens=max_tokens, temperature=0,
                             ignore_eos=True, logprobs=3, return_token_ids=True, **fields)
    return choice["token_ids"], choice["logprobs"]["token_logprobs"]


def parents(server):
    return {card["id"]: card["parent"] for card in server.request("GET", "/v1/models")[1]["data"]}


def load(server, name, path, **fields):
    return server.request("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path), **fields})


def with_config(adapter, folder, **changes):
    """A copy of an adapter with another config."""
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    return folder


def retrained(model, folder):
    """A model of the same shapes whose norms are others, as after training on."""
    shutil.copytree(model, folder)
    tensors = read_safetensors(folder / "model.safetensors")
    dtype, shape, data = tensors["model.norm.weight"]
    assert dtype == "BF16"
    tensors["model.norm.weight"] = (dtype, shape, b"\x00\x40" * 4 + data[8:])  # four gains of 2
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


@pytest.fixture(scope="module")
def alone():
    """What servers of one base each answer."""
    answers = {}
    for model, name, adapter in ((FIRST, "first", FIRST_ADAPTER), (SECOND, "second", SECOND_ADAPTER)):
        with Server(model, "--served-model-name", name, "--enable-lora", "--skip-tokenizer-init", "--max-model-len", 512,
                    "--kv-cache-memory", 32 * MIB, "--lora-modules", f"{name}-adapter={adapter}") as server:
            for asked in (name, f"{name}-adapter"):
                for seed in range(6):
                    answers[asked, seed] = ask(server, asked, seed)
    return answers


def test_answers_are_those_of_separate_servers(tmp_path, alone):
    bases = two_bases()
    bases[0]["lora-modules"] = [f"first-adapter={FIRST_ADAPTER}"]
    bases[1]["lora-modules"] = [{"name": "second-adapter", "path": str(SECOND_ADAPTER)}]
    with Fleet(tmp_path, bases) as server:
        questions = [key for key in alone for _ in range(2)]
        results = {}
        threads = [threading.Thread(target=lambda i=i, q=q: results.update({i: ask(server, *q)}))
                   for i, q in enumerate(questions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i, question in enumerate(questions):
            assert results[i] == alone[question], question
        assert ask(server, "second-alias") == alone["second", 0]
        assert ask(server, "") == alone["first", 0]  # none named: the first
        assert parents(server) == {"first": None, "second": None, "second-alias": None, "first-adapter": "first",
                                   "second-adapter": "second"}
        status, body = server.request("POST", "/v1/completions", {"model": "third", "prompt": [1], "max_tokens": 1})
        assert status == 404
        assert body["error"]["message"] == \
            "The model `third` does not exist. Valid aliases: first, second, second-alias."
        for name in ("first", "second"):
            assert server.metric("vllm:request_success_total", model_name=name) == 25
            assert server.metric("vllm:kv_cache_usage_perc", model_name=name) == 0
        assert server.metric("vllm:request_success_total", adapter="second-adapter", model_name="second") == 12
        assert server.metric("vllm:num_cpu_loaded_lora_adapters", model_name="first") == 1
        text = server.request("GET", "/metrics")[1]
        families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(families) == len(set(families)), "Prometheus refuses a family that comes twice"


def test_adapters_find_their_base_by_shapes(tmp_path, alone):
    modules = [f"first-adapter={FIRST_ADAPTER}", f"second-adapter={SECOND_ADAPTER}"]
    with Fleet(tmp_path, two_bases(), **{"lora-modules": modules}) as server:
        assert parents(server)["first-adapter"] == "first"
        assert parents(server)["second-adapter"] == "second"
        for name in ("first-adapter", "second-adapter"):
            assert ask(server, name) == alone[name, 0]
        # several at once only on one base
        for body, said in (({"model": "first-adapter+second-adapter"}, "different base models"),
                           ({"model": "first", "adapters": [{"name": "second-adapter"}]}, "for the base model `second`")):
            status, answer = server.request("POST", "/v1/completions", {"prompt": [1, 2], "max_tokens": 1, **body})
            assert status == 400 and said in answer["error"]["message"], answer
        assert ask(server, "second", adapters=[{"name": "second-adapter"}]) == alone["second-adapter", 0]
        # at run time, and gone again
        assert load(server, "late", SECOND_ADAPTER)[0] == 200
        assert parents(server)["late"] == "second"
        assert ask(server, "late") == alone["second-adapter", 0]
        assert load(server, "first", FIRST_ADAPTER)[1]["error"]["message"] == \
            "The lora adapter 'first' conflicts with a served base model."
        assert load(server, "late", FIRST_ADAPTER)[0] == 400, "names are unique over all bases"
        assert load(server, "late", FIRST_ADAPTER, load_inplace=True)[0] == 200
        assert parents(server)["late"] == "first"
        assert ask(server, "late") == alone["first-adapter", 0]
        server.post("/v1/unload_lora_adapter", lora_name="late")
        assert "late" not in parents(server)
        # a name that cannot be
        status, body = load(server, "wrong", FIRST_ADAPTER, base_model_name="second")
        assert status >= 400 and "does not fit this base model" in body["error"]["message"]
        status, body = load(server, "wrong", FIRST_ADAPTER, base_model_name="third")
        assert status == 400 and "not one of the base models served here: first, second" in body["error"]["message"]


def test_adapters_of_bases_alike(tmp_path):
    other = retrained(FIRST, tmp_path / "other")
    bases = [{"model": str(FIRST), "served-model-name": "plain"}, {"model": str(other), "served-model-name": "trained-on"}]
    anonymous = with_config(FIRST_ADAPTER, tmp_path / "anonymous", base_model_name_or_path="/gone")
    named = with_config(FIRST_ADAPTER, tmp_path / "named", base_model_name_or_path="/home/trainer/other")
    with Fleet(tmp_path, bases) as server:
        assert load(server, "by-path", FIRST_ADAPTER)[0] == 200  # its config names the folder of `plain`
        assert load(server, "by-last-part", named)[0] == 200
        assert load(server, "by-request", anonymous, base_model_name="trained-on")[0] == 200
        status, body = load(server, "unclear", anonymous)
        assert status == 400
        assert "fits several base models (plain, trained-on)" in body["error"]["message"]
        assert "base_model_name" in body["error"]["message"]
        assert parents(server) == {"plain": None, "trained-on": None, "by-path": "plain", "by-last-part": "trained-on",
                                   "by-request": "trained-on"}
        assert ask(server, "by-path") != ask(server, "by-last-part"), "the bases differ"


@pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}")
def test_what_was_trained_here_is_known_by_its_fingerprint(tmp_path):
    (tmp_path / "data").mkdir()
    data = write_datasets(tmp_path / "data")
    export(DEFAULT_MODEL, tmp_path / "tokenizer")
    model = write_tiny_model(tmp_path / "tiny", tmp_path / "tokenizer")
    other = retrained(model, tmp_path / "other")
    (tmp_path / "short.yaml").write_text(SHORT)
    binary("train", tmp_path / "short.yaml", *settings(model_name_or_path=other, dataset_dir=data, template="smollm2",
                                                       output_dir=tmp_path / "out", max_steps=1))
    moved = with_config(tmp_path / "out", tmp_path / "moved", base_model_name_or_path="/gone")
    bases = [{"model": str(model), "served-model-name": "plain"}, {"model": str(other), "served-model-name": "trained-on"}]
    with Fleet(tmp_path, bases) as server:
        assert load(server, "moved", moved)[0] == 200
        assert parents(server)["moved"] == "trained-on"


def test_streams_of_two_bases_get_on_side_by_side(tmp_path):
    times = {"first": [], "second": []}

    def stream(server, name):
        connection = http.client.HTTPConnection(server.host, server.port, timeout=120)
        connection.request("POST", "/v1/completions", json.dumps(
            {"model": name, "prompt": [1, 2, 3], "max_tokens": 400, "ignore_eos": True, "stream": True}),
            {"Content-Type": "application/json"})
        response = connection.getresponse()
        while line := response.readline():
            if line.startswith(b"data: {"):
                times[name].append(time.monotonic())
        connection.close()

    def keep_streaming(server, name):  # the two need not begin at the same moment
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            stream(server, name)

    with Fleet(tmp_path, two_bases()) as server:
        threads = [threading.Thread(target=keep_streaming, args=(server, name)) for name in times]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    begin, end = max(t[0] for t in times.values()), min(t[-1] for t in times.values())
    assert begin < end, "one waited for the other to finish"
    together = {name: sum(begin <= t <= end for t in seen) for name, seen in times.items()}
    assert min(together.values()) > max(together.values()) / 5, together


def test_one_budget_for_all_adapters(tmp_path):
    with Fleet(tmp_path, two_bases(), **{"max-cpu-loras": 1, "lora-modules": [
            f"first-adapter={FIRST_ADAPTER}", f"second-adapter={SECOND_ADAPTER}"]}) as server:
        for name in ("first-adapter", "second-adapter", "first-adapter"):
            ask(server, name)
            resident = [a["lora_name"] for a in server.request("GET", "/v1/lora_adapters")[1]["data"] if a["resident"]]
            assert resident == [name]


def test_watched_folders_and_one_stop(tmp_path):
    watched = tmp_path / "run"
    bases = two_bases()
    bases[1]["lora-watch"] = [f"second-run={watched}"]
    fleet = Fleet(tmp_path, bases, **{"lora-watch": [f"any-run={tmp_path / 'any'}"]})
    with fleet as server:
        shutil.copytree(SECOND_ADAPTER, watched / "checkpoint-5")
        shutil.copytree(FIRST_ADAPTER, tmp_path / "any" / "checkpoint-7")
        deadline = time.monotonic() + 20
        while len(parents(server)) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert parents(server)["second-run@5"] == "second"
        assert parents(server)["any-run@7"] == "first"
        answers = []
        threads = [threading.Thread(target=lambda n=n: answers.append(ask(server, n, max_tokens=400)))
                   for n in ("first", "second")]
        for thread in threads:
            thread.start()
        while server.metric("vllm:num_requests_running") < 2 and len(answers) < 2:
            time.sleep(0.005)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert server.process.wait(timeout=60) == 0
        assert [len(tokens) for tokens, _ in answers] == [400, 400], "requests of both bases end in peace"


def test_bad_fleets_are_refused_in_one_line(tmp_path):
    one = two_bases()[:1]
    cases = [
        ([{**one[0], "port": 1}], {}, "bases[0]: --port is not supported: it is for all bases together"),
        ([one[0], {"model": "m", "max-modl-len": 1}], {}, "bases[1]: unknown flag --max-modl-len; did you mean"),
        ([one[0], one[0]], {}, "two of the bases are called 'first'"),
        ([{"served-model-name": "x"}], {}, "bases[0]: which MODEL?"),
        ([one[0], "text"], {}, "bases[1]: expected lines of the form"),
        (one, {"model": str(FIRST)}, "not both"),
        (two_bases(**{"kv-cache-memory": 20 * MIB}), {}, "those with a size of their own take"),
        (two_bases(**{"max-model-len": 2048, "kv-cache-dtype": "float32"}), {"kv-cache-memory": "64K"},
         "base 'first': a request of --max-model-len 2048 needs"),
        (two_bases(), {"lora-modules": [f"x={FIRST_ADAPTER}", f"x={SECOND_ADAPTER}"]}, "already been loaded"),
    ]
    for bases, server, expected in cases:
        said = refusal(tmp_path, bases, **server)
        assert expected in said, said
        assert len(said.strip().splitlines()) == 1, said


def test_bases_on_the_command_line(tmp_path):
    items = [json.dumps(base) for base in two_bases(**{"max-model-len": 256})]
    with Server("--skip-tokenizer-init", "--kv-cache-memory", 16 * MIB, "--bases", *items) as server:
        cards = server.request("GET", "/v1/models")[1]["data"]
        assert [(card["id"], card["max_model_len"]) for card in cards] == [
            ("first", 256), ("second", 256), ("second-alias", 256)]
