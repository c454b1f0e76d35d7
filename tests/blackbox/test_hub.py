"""Models and adapters by hub id, https:// and s3://, against servers on loopback that speak those protocols."""

import hashlib
import os
import pathlib

import pytest
from fake_hub import COMMIT, FakeHub, FakeS3, FileHost
from harness import Server
from loopback import LoopbackServer, reply
from quantised import write_gguf_models, write_models, write_small_adapter
from training import binary

PROMPT = [1, 17, 230, 9, 44]


def files_of(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A small model and an adapter, as folders and as {name: bytes}."""
    root = tmp_path_factory.mktemp("parts")
    _, model = write_models(root, "int8")
    adapter = write_small_adapter(root / "adapter")
    return {"model": model, "adapter": adapter, "model_files": files_of(model), "adapter_files": files_of(adapter)}


@pytest.fixture
def hub(parts):
    repos = {"org/model": {**parts["model_files"], "README.md": b"x", "pytorch_model.bin": b"\x80\x02pickle"},
             "org/adapter": parts["adapter_files"], "org/pickled": {"adapter_config.json": b"{}",
                                                                  "adapter_model.bin": b"\x80\x02"}}
    with FileHost() as host, FakeHub(host, repos, token="hf_secret", gated={"org/gated"}) as server:
        yield server


def environment(hub, cache, **more):
    clean = {name: None for name in os.environ if name.startswith(("HF_", "HUGGING", "AWS_", "http", "HTTP"))}
    given = {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "XDG_CACHE_HOME": str(cache / "xdg"), **more}
    return {**{name: "" for name in clean}, **given}


def first_token(server, model="base"):
    return server.complete(model=model, prompt=PROMPT, max_tokens=4, temperature=0, return_token_ids=True)["token_ids"]


def serve(model, env, *flags):
    return Server(model, "--skip-tokenizer-init", "--served-model-name", "base", *flags, env=env)


def refused(env, model="org/model", *flags, status=1):
    """What `serve` says before it gives up; its exit status is 2 where the user has to say more."""
    old = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        return binary("serve", model, "--skip-tokenizer-init", "--port", 0, *flags, expect=status).stderr
    finally:
        for name, value in old.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def repository(cache, repo="org/model"):
    return cache / "hub" / ("models--" + repo.replace("/", "--"))


def test_a_model_and_an_adapter_by_name(hub, parts, tmp_path):
    with serve(parts["model"], {}, "--enable-lora", "--lora-modules", f"a={parts['adapter']}") as local:
        expected = first_token(local), first_token(local, "a")
    with serve("org/model", environment(hub, tmp_path), "--enable-lora", "--lora-modules", "a=org/adapter") as server:
        assert (first_token(server), first_token(server, "a")) == expected
    folder = repository(tmp_path)
    assert (folder / "refs" / "main").read_text() == COMMIT
    snapshot = folder / "snapshots" / COMMIT
    assert sorted(path.name for path in snapshot.iterdir()) == ["config.json", "model.safetensors"]
    for path in snapshot.iterdir():
        assert path.is_symlink() and not os.path.isabs(os.readlink(path)) and path.resolve().parent == folder / "blobs"
        assert path.read_bytes() == parts["model_files"][path.name]
    assert not list((folder / "blobs").glob("*.incomplete"))


def test_a_second_start_downloads_nothing(hub, tmp_path):
    for _ in range(2):
        hub.seen.clear()
        hub.host.seen.clear()
        with serve("org/model", environment(hub, tmp_path)):
            pass
    assert [path for _, path, _ in hub.seen] == ["/api/models/org/model/revision/main"] and not hub.host.seen


def test_offline_the_cache_answers(hub, tmp_path):
    offline = {"HF_HUB_OFFLINE": "1"}
    said = refused(environment(hub, tmp_path, **offline))
    assert "not in the cache" in said and "HF_HUB_OFFLINE" in said and not hub.seen
    with serve("org/model", environment(hub, tmp_path)) as server:
        expected = first_token(server)
    hub.seen.clear()
    with serve("org/model", environment(hub, tmp_path, **offline)) as server:
        assert first_token(server) == expected
    assert not hub.seen


def test_an_unreachable_hub_means_the_cache_too(hub, tmp_path):
    with serve("org/model", environment(hub, tmp_path)):
        pass
    with serve("org/model", environment(hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:1")) as server:
        assert "using the cached files of org/model" in "".join(server.log)


def test_a_broken_connection_is_resumed(hub, parts, tmp_path):
    size = len(parts["model_files"]["model.safetensors"])
    hub.host.break_after = size // 3
    with serve("org/model", environment(hub, tmp_path)):
        pass
    ranges = [headers.get("Range") for method, _, headers in hub.host.seen if method == "GET"]
    assert ranges[0] is None and len(ranges) >= 3 and f"bytes={size // 3}-" in ranges


def test_an_interrupted_download_goes_on_in_the_next_process(hub, parts, tmp_path):
    data = parts["model_files"]["model.safetensors"]
    blobs = repository(tmp_path) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / (hashlib.sha256(data).hexdigest() + ".incomplete")).write_bytes(data[:1000])
    with serve("org/model", environment(hub, tmp_path)):
        pass
    assert [headers.get("Range") for _, _, headers in hub.host.seen] == ["bytes=1000-"]


@pytest.mark.parametrize("file, lie", [("model.safetensors", "ab" * 32), ("config.json", "cd" * 20)])
def test_a_wrong_checksum_is_refused(hub, tmp_path, file, lie):
    hub.lies[file] = lie
    said = refused(environment(hub, tmp_path))
    assert f"{file} of org/model" in said and f"the hub says {lie}" in said
    left = [path.name for path in (repository(tmp_path) / "blobs").iterdir()]
    assert lie not in left and lie + ".incomplete" not in left


def test_revisions(hub, tmp_path):
    other = "f" * 40
    hub.revisions.update({"v1": other, other: other})
    for model, flags in (("org/model@v1", []), ("org/model", ["--revision", "v1"]), (f"org/model@{other}", [])):
        with serve(model, environment(hub, tmp_path), *flags):
            pass
    folder = repository(tmp_path)
    assert (folder / "refs" / "v1").read_text() == other and (folder / "snapshots" / other / "config.json").exists()
    assert "has no revision 'v2'" in refused(environment(hub, tmp_path), "org/model@v2")


def test_the_token_goes_to_the_hub_only(hub, parts, tmp_path):
    hub.repos["org/gated"] = parts["model_files"]
    said = refused(environment(hub, tmp_path), "org/gated")
    assert "org/gated is gated" in said and f"{hub.url}/org/gated" in said and "set HF_TOKEN" in said
    said = refused(environment(hub, tmp_path, HF_TOKEN="hf_wrong"), "org/gated")
    assert "the token in use may not read it" in said and "hf_wrong" not in said
    hub.host.seen.clear()
    (tmp_path / "token").write_text("hf_secret\n")  # as `hf auth login` leaves it
    with serve("org/gated", environment(hub, tmp_path)):
        pass
    assert hub.host.seen and not any("Authorization" in headers for _, _, headers in hub.host.seen)


def test_what_is_not_there(hub, tmp_path):
    env = environment(hub, tmp_path)
    said = refused(env, "org/nothing")
    assert "no folder org/nothing" in said and "no repository org/nothing" in said
    hub.repos["org/bin"] = {"config.json": b"{}", "pytorch_model.bin": b""}
    assert "pickled" in refused(env, "org/bin")
    assert "is an adapter" in refused(env, "org/adapter")
    assert "pickled adapter_model.bin" in refused(env, "org/model", "--enable-lora", "--lora-modules", "a=org/pickled")


def test_gguf_files_by_name_and_by_type(hub, tmp_path):
    (tmp_path / "made").mkdir()
    for kind in ("Q4_K", "Q8_0"):
        file, _ = write_gguf_models(tmp_path / "made", kind)
        hub.repos.setdefault("org/gguf", {})[f"model-{kind}.gguf"] = file.read_bytes()
    env = environment(hub, tmp_path)
    said = refused(env, "org/gguf", status=2)
    assert "holds GGUF files" in said and "model-Q4_K.gguf" in said
    assert "no GGUF file for ':Q5_1'" in refused(env, "org/gguf:Q5_1")
    for name in ("org/gguf:q8_0", "org/gguf:model-Q8_0.gguf"):
        with serve(name, env) as server:
            assert "Q8_0 as q8" in "".join(server.log)
    assert len(list((repository(tmp_path, "org/gguf") / "snapshots" / COMMIT).iterdir())) == 1


def test_a_folder_wins_over_the_hub(hub, parts, tmp_path, monkeypatch):
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "model").symlink_to(parts["model"])
    monkeypatch.chdir(tmp_path)
    with serve("org/model", environment(hub, tmp_path / "cache")):
        pass
    assert not hub.seen


def test_export_takes_hub_ids(hub, tmp_path, monkeypatch):
    for name, value in environment(hub, tmp_path).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "export.yaml").write_text("model_name_or_path: org/model\nmodel_revision: main\n"
                                          f"adapter_name_or_path: org/adapter\nexport_dir: {tmp_path / 'out'}\n")
    binary("export", tmp_path / "export.yaml")
    assert (tmp_path / "out" / "model.safetensors").exists()


def load(server, path, name="a", **more):
    return server.request("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path, **more})


def test_requests_load_only_from_what_is_allowed(hub, parts, tmp_path):
    with serve(parts["model"], environment(hub, tmp_path), "--enable-lora") as server:
        assert load(server, "org/adapter")[0] == 404
        status, answer = load(server, f"{hub.url}/somewhere")
        assert status == 400 and "--allowed-adapter-sources" in answer["error"]["message"]
        assert load(server, "s3://bucket/a")[0] == 400
        assert not hub.seen
    with serve(parts["model"], environment(hub, tmp_path), "--enable-lora", "--allowed-adapter-sources",
               "org/") as server:
        assert load(server, "organisation/adapter", "b")[0] == 404 and not hub.seen
        assert load(server, "org/adapter")[0] == 200
        assert first_token(server, "a")


class Files(LoopbackServer):
    def __init__(self, files):
        super().__init__()
        self.files = files

    def answer(self, request):
        data = self.files.get(request.path)
        if data == "redirect":
            return reply(request, 302, headers={"Location": "http://169.254.169.254/"})
        return reply(request, 404) if data is None else reply(request, 200, data)


def test_an_adapter_from_a_url(hub, parts, tmp_path):
    files = {f"/good/{name}": data for name, data in parts["adapter_files"].items()}
    files.update({f"/pickle/{name}": data for name, data in parts["adapter_files"].items()})
    files["/pickle/adapter_model.safetensors"] = b"\x80\x02}q\x00."
    files.update({"/bin/adapter_config.json": b"{}", "/bin/adapter_model.bin": b"\x80\x02",
                  "/moved/adapter_config.json": "redirect"})
    with Files(files) as host, serve(parts["model"], environment(hub, tmp_path), "--enable-lora",
                                     "--allowed-adapter-sources", f"{host.url}/") as server:
        assert load(server, f"{host.url}/good")[0] == 200
        first = first_token(server, "a")
        status, answer = load(server, f"{host.url}/pickle", "p")
        assert status == 400 and "safetensors" in answer["error"]["message"]
        assert load(server, f"{host.url}/bin", "b")[0] == 404
        status, answer = load(server, f"{host.url}/moved", "m")
        assert status == 400 and "redirects" in answer["error"]["message"]
        for bad in (f"{host.url}/good/../bin", f"{host.url}/good?x=1", f"{host.url}/%67ood", f"{host.url}@h/good"):
            assert load(server, bad, "x")[0] == 400, bad
        assert first_token(server, "a") == first


def test_a_url_adapter_may_not_be_larger_than_allowed(hub, parts, tmp_path):
    files = {f"/good/{name}": data for name, data in parts["adapter_files"].items()}
    with Files(files) as host, serve(parts["model"], environment(hub, tmp_path), "--enable-lora", "--max-adapter-download",
                                     "10K", "--allowed-adapter-sources", f"{host.url}/") as server:
        status, answer = load(server, f"{host.url}/good")
        assert status == 400 and "--max-adapter-download" in answer["error"]["message"]
    assert not list((tmp_path / "xdg").rglob("*.safetensors"))


def test_an_adapter_from_s3(hub, parts, tmp_path):
    objects = {f"bucket/team/a/{name}": data for name, data in parts["adapter_files"].items()}
    with FakeS3(objects, "AKIDEXAMPLE", "secret/key+1") as s3:
        aws = {"AWS_ENDPOINT_URL": s3.url, "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_REGION": "eu-test-1"}
        flags = ["--enable-lora", "--allowed-adapter-sources", "s3://bucket/team"]
        env = environment(hub, tmp_path, **aws, AWS_SECRET_ACCESS_KEY="secret/key+1", AWS_SESSION_TOKEN="session")
        with serve(parts["model"], env, *flags) as server:
            assert load(server, "s3://bucket/team/a")[0] == 200
            assert load(server, "s3://bucket/team/b", "b")[0] == 404
            assert load(server, "s3://bucket/teamwork/a", "c")[0] == 400
            assert first_token(server, "a")
        assert all(headers.get("X-Amz-Security-Token") == "session" for _, _, headers in s3.seen)
        env["AWS_SECRET_ACCESS_KEY"] = "wrong"
        with serve(parts["model"], env, *flags) as server:
            status, answer = load(server, "s3://bucket/team/a")
            assert status == 404 and "credentials" in answer["error"]["message"]
