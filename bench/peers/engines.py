"""The servers under comparison, one interface:

  start(); generate(job) → run; stop()

  job  {"prompts": [[ids]…], "adapters": [index or None, one per prompt], "max_tokens": n, "concurrency": n}
  run  {"seconds": of all, "streams": [{"first": s, "last": s, "tokens": n}…]}, each from its own request's start

All of them idle without using the CPU, so that they can stay up while another one is measured.
"""

import http.client
import json
import socket
import subprocess
import time

import http_load

START_TIMEOUT = 300.0  # seconds; the slowest peer packs a model of 2.5 GB


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Child:
    """A process with its log; stop() ends it for certain."""

    def __init__(self, argv, log, **pipes):
        self.log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(list(map(str, argv)), stderr=file, **{"stdout": file, **pipes})

    def check(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.process.args[0]} ended with {self.process.returncode}; its log: {self.log}")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class HttpServer:
    """argv without the port; `body_of_adapter(index or None)`: what a request carries to be answered by that adapter."""

    def __init__(self, argv, log, body_of_adapter):
        self.argv, self.log, self.body_of_adapter = argv, log, body_of_adapter

    def start(self):
        self.port = free_port()
        self.child = Child([*self.argv, "--host", "127.0.0.1", "--port", self.port], self.log)
        deadline = time.monotonic() + START_TIMEOUT
        while not self.healthy():
            self.child.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.argv[0]} is not ready after {START_TIMEOUT:.0f} s; its log: {self.log}")
            time.sleep(0.2)

    def healthy(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def generate(self, job):
        bodies = [{"prompt": prompt, "max_tokens": job["max_tokens"], "temperature": 0, "ignore_eos": True, "stream": True,
                   "stream_options": {"include_usage": True}, **self.body_of_adapter(adapter)}
                  for prompt, adapter in zip(job["prompts"], job["adapters"])]
        return http_load.run(self.port, bodies, job["concurrency"])

    def stop(self):
        self.child.stop()


def polylora(binary, model, threads, log, flags=(), adapters=()):
    """`adapters`: folders; each is served under its folder's name."""
    argv = [binary, "serve", model, "--threads", threads, "--served-model-name", "base",
            "--max-model-len", 1024, "--disable-uvicorn-access-log", *flags]
    if adapters:
        argv += ["--enable-lora", "--lora-modules", *(f"{path.name}={path}" for path in adapters)]
    return HttpServer(argv, log, lambda i: {"model": "base" if i is None else adapters[i].name})


def llama_server(binary, model, threads, log, adapters=()):
    """16 slots of 512 tokens; `adapters`: GGUF files, all loaded, none applied unless a request asks for it."""
    argv = [binary, "--model", model, "--threads", threads, "--parallel", 16, "--ctx-size", 16 * 512,
            "--batch-size", 2048, "--ubatch-size", 512, "--flash-attn", "on"]
    if adapters:
        argv += ["--lora", ",".join(map(str, adapters)), "--lora-init-without-apply"]
    return HttpServer(argv, log, lambda i: {} if i is None else {"lora": [{"id": i, "scale": 1.0}]})


class OpenVino:
    def __init__(self, python, script, folder, log, adapters=()):
        self.argv, self.log = [python, script, folder, *adapters], log

    def start(self):
        self.child = Child(self.argv, self.log, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.read()  # its version: it is ready

    def read(self):
        line = self.child.process.stdout.readline()
        if not line:
            self.child.process.wait(30)
            self.child.check()
        return json.loads(line)

    def generate(self, job):
        self.child.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.child.process.stdin.flush()
        return self.read()

    def stop(self):
        self.child.stop()


class LlamaBench:
    """llama.cpp's own benchmarks, in-process, started anew for every measurement."""

    def __init__(self, folder, model, threads, log):
        self.folder, self.model, self.threads, self.log = folder, model, threads, log

    def start(self):
        pass

    def stop(self):
        pass

    def prefill_and_decode(self, prompt, tokens):
        rows = self.run("llama-bench", "-p", prompt, "-n", tokens, "-r", 1, "-fa", 1, "-o", "jsonl")
        return [row["avg_ts"] for row in rows]

    def batched_decode(self, streams, prompt, tokens):
        row, = self.run("llama-batched-bench", "-npp", prompt, "-ntg", tokens, "-npl", streams, "-c",
                        streams * (prompt + tokens), "-b", 2048, "-ub", 512, "-fa", "on", "--output-format", "jsonl")
        return row["speed_tg"]

    def run(self, program, *flags):
        argv = [self.folder / program, "-m", self.model, "-t", self.threads, *flags]
        with open(self.log, "ab") as log:
            text = subprocess.run(list(map(str, argv)), stdout=subprocess.PIPE, stderr=log, check=True).stdout
        return [json.loads(line) for line in text.splitlines() if line.startswith(b"{")]
