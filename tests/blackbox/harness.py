"""What the black-box tests share: the binary, a server per `with` block, plain JSON requests, PEFT folders."""

import concurrent.futures
import http.client
import json
import os
import pathlib
import queue
import re
import signal
import struct
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
BINARY = pathlib.Path(os.environ.get("POLYLORA_BINARY", ROOT / "build" / "polylora")).resolve()
DEFAULT_MODEL = pathlib.Path(
    os.environ.get("POLYLORA_DEFAULT_MODEL", ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"))
LISTENING = re.compile(r"polylora is listening on (http\S+)")


class Server:
    """`polylora serve …` on a free port for the length of a `with` block; its stderr is kept in .log."""

    def __init__(self, model, *args, env=None, start_timeout=60):
        self.command = [str(BINARY), "serve", str(model), "--host", "127.0.0.1", "--port", "0", *map(str, args)]
        self.env = {**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", **(env or {})}
        self.start_timeout = start_timeout
        self.log = []

    def __enter__(self):
        began = time.monotonic()
        self.process = subprocess.Popen(self.command, env=self.env, stderr=subprocess.PIPE,
                                        stdout=subprocess.DEVNULL, text=True)
        lines = queue.Queue()
        threading.Thread(target=self._collect, args=(lines,), daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=max(0.01, began + self.start_timeout - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                self.process.kill()
                raise AssertionError("the server did not start: " + "".join(self.log))
            if found := LISTENING.search(line):
                break
        self.start_seconds = time.monotonic() - began
        self.url = found.group(1)
        self.host, port = self.url.split("//")[1].split(":")
        self.port = int(port)
        return self

    def _collect(self, lines):
        for line in self.process.stderr:
            self.log.append(line)
            lines.put(line)
        lines.put(None)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise AssertionError("the server did not stop on SIGTERM")

    def request(self, method, path, body=None, headers=None, timeout=300):
        """(status, decoded JSON or text)"""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except json.JSONDecodeError:
            return response.status, text

    def post(self, path, **body):
        status, answer = self.request("POST", path, body)
        assert status == 200, (status, answer)
        return answer

    def complete(self, **body):
        """The first choice of a /v1/completions answer."""
        return self.post("/v1/completions", **body)["choices"][0]

    def complete_all(self, bodies, workers=64):
        """Concurrently; answers in the order of the bodies."""
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda body: self.complete(**body), bodies))

    def metric(self, name, **labels):
        """Sum of the samples of a metric whose labels include the given ones."""
        status, text = self.request("GET", "/metrics")
        assert status == 200
        total = 0.0
        for line in text.splitlines():
            if not line.startswith(name) or line[len(name):len(name) + 1] not in ("{", " "):
                continue
            if all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def resident_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024


def read_safetensors(path):
    """{name: (dtype, shape, bytes)}"""
    raw = pathlib.Path(path).read_bytes()
    length, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])
    header.pop("__metadata__", None)
    body = raw[8 + length:]
    return {name: (info["dtype"], info["shape"], body[slice(*info["data_offsets"])])
            for name, info in header.items()}


def write_safetensors(path, tensors):
    """tensors: {name: (dtype, shape, bytes)}"""
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


# SmolLM2-135M: (module path, output width, input width)
SMOLLM2_LAYERS = 30
SMOLLM2_MODULES = {
    "self_attn.q_proj": (576, 576), "self_attn.k_proj": (192, 576), "self_attn.v_proj": (192, 576),
    "self_attn.o_proj": (576, 576), "mlp.gate_proj": (1536, 576), "mlp.up_proj": (1536, 576),
    "mlp.down_proj": (576, 1536),
}


def write_adapter(folder, seed, rank=8, alpha=16, modules=None, std_b=0.02):
    """A random bf16 PEFT adapter for SmolLM2 on all linears."""
    import numpy as np
    rng = np.random.default_rng(seed)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    def bf16(rows, cols, std):
        values = (rng.standard_normal((rows, cols), dtype=np.float32) * std).view(np.uint32)
        return ("BF16", (rows, cols), (values >> 16).astype(np.uint16).tobytes())

    chosen = modules or list(SMOLLM2_MODULES)
    tensors = {}
    for layer in range(SMOLLM2_LAYERS):
        for module in chosen:
            n, k = SMOLLM2_MODULES[module]
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{prefix}.lora_A.weight"] = bf16(rank, k, k ** -0.5)
            tensors[f"{prefix}.lora_B.weight"] = bf16(n, rank, std_b)
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "r": rank, "lora_alpha": alpha, "target_modules": [m.split(".")[1] for m in chosen], "bias": "none",
        "use_rslora": False, "use_dora": False, "modules_to_save": None, "fan_in_fan_out": False,
    }))
    return folder
