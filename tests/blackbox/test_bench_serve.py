"""`polylora bench serve` as a user runs it: against our server, and against servers that misbehave."""

import json
import re
import subprocess
import time

import pytest
from harness import BINARY, DATA, Server
from loopback import LoopbackServer, reply

TINY = DATA / "models" / "llama_bf16_tied"
VOCABULARY = json.loads((TINY / "config.json").read_text())["vocab_size"]


def bench(*arguments, expect=0):
    done = subprocess.run([str(BINARY), "bench", "serve", "--disable-tqdm", *map(str, arguments)], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == expect, (done.stdout, done.stderr)
    return done


def figures(done):
    """{label: number} of the result block."""
    return {label: float(value) for label, value in re.findall(r"^(\S.*?):\s+([\d.]+)\s*$", done.stdout, re.MULTILINE)}


class FakeServer(LoopbackServer):
    """Answers /v1/completions with the given raw pieces, chunked, or as `answer_to` a body says."""

    def __init__(self, pieces=(), status=200, cut=False, answer_to=None):
        super().__init__()
        self.answer_to = answer_to or (lambda body: pieces)
        self.status, self.cut = status, cut
        self.bodies = []

    def answer(self, request):
        if request.command == "GET":
            return reply(request, 200, json.dumps({"data": [{"id": "fake/first"}, {"id": "second"}]}).encode())
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        self.bodies.append(body)
        if self.status != 200:
            return reply(request, self.status, json.dumps({"error": {"message": "not\nnow"}}).encode())
        self.stream(request, self.answer_to(body))

    def stream(self, request, pieces):
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for piece in pieces:
            request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            request.wfile.flush()
            time.sleep(0.002)
        if self.cut:
            request.close_connection = True
            return
        request.wfile.write(b"0\r\n\r\n")


def chunk(text, finish=None):
    return b"data: " + json.dumps({"choices": [{"text": text, "finish_reason": finish}]}).encode() + b"\n\n"


GOOD = [chunk("a"), chunk("b"), chunk("c", "length"),
        b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5}}\n\n', b"data: [DONE]\n\n"]
SHORT = ["--num-prompts", 3, "--random-input-len", 4, "--random-output-len", 3, "--model", "m"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with Server(TINY, "--skip-tokenizer-init", "--served-model-name", "base", "--kv-cache-memory", "16M") as server:
        yield server


def on(tiny, *arguments):
    return ["--base-url", tiny.url, "--random-token-range", f"0:{VOCABULARY}", *arguments]


def test_our_server(tiny, tmp_path):
    done = bench(*on(tiny, "--num-prompts", 12, "--random-input-len", 10, "--random-output-len", 8,
                     "--max-concurrency", 4, "--num-warmups", 2, "--ready-check-timeout-sec", 5, "--temperature", 0,
                     "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99.9",
                     "--goodput", "e2el:60000", "--probe-request-rate", 200, "--lora-modules", "base",
                     "--lora-assignment", "round-robin", "--save-result", "--save-detailed", "--result-dir", tmp_path,
                     "--metadata", "version=7"))
    numbers = figures(done)
    assert numbers["Successful requests"] == 12 and numbers["Failed requests"] == 0
    assert numbers["Total input tokens"] == 120 and numbers["Total generated tokens"] == 96
    assert 1 <= numbers["Peak concurrent requests"] <= 4
    assert numbers["P99.9 E2EL (ms)"] >= numbers["P50 E2EL (ms)"] >= numbers["P50 TTFT (ms)"] > 0
    assert numbers["Request goodput (req/s)"] == numbers["Request throughput (req/s)"]
    assert numbers["Probe requests completed"] > 0 and numbers["Probe requests failed"] == 0
    file, = tmp_path.iterdir()
    assert re.fullmatch(r"openai-infqps-concurrency4-base-\d{8}-\d{6}\.json", file.name)
    result = json.loads(file.read_text())
    assert list(result)[:12] == ["date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts",
                                 "version", "request_rate", "burstiness", "max_concurrency", "duration"]
    assert result["request_rate"] == "inf" and result["max_concurrency"] == 4 and result["completed"] == 12
    assert result["output_lens"] == [8] * 12 and result["input_lens"] == [10] * 12
    assert all(len(gaps) <= 7 for gaps in result["itls"])
    assert result["p99.9_itl_ms"] > 0


def test_results_are_appended(tiny, tmp_path):
    for _ in range(2):
        bench(*on(tiny, *SHORT[:-2], "--append-result", "--result-filename", tmp_path / "all.jsonl"))
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    assert [json.loads(line)["completed"] for line in lines] == [3, 3]
    assert "ttfts" not in json.loads(lines[0])


def test_arrivals_follow_the_rate(tiny):
    done = bench(*on(tiny, *SHORT[:-2], "--num-prompts", 20, "--request-rate", 40, "--burstiness", 2))
    assert figures(done)["Request rate configured (RPS)"] == 40
    assert 0.45 < figures(done)["Benchmark duration (s)"] < 5


def test_requests_are_what_was_asked_for(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "first"}\n{"prompt": "second"}\n')
    with FakeServer(GOOD) as fake:
        bench("--base-url", fake.url + "/api", "--dataset-name", "custom", "--dataset-path", prompts, "--num-prompts", 2,
              "--custom-output-len", 11, "--disable-shuffle", "--top-k", 5, "--min-p", 0.1, "--extra-body",
              '{"custom": [1]}', "--header", "X-Team=blue", "--request-id-prefix", "run-", "--max-concurrency", 1)
        first, second = fake.bodies
        assert first == {"model": "fake/first", "prompt": "first", "max_tokens": 11, "stream": True,
                         "stream_options": {"include_usage": True}, "top_k": 5, "min_p": 0.1, "custom": [1]}
        assert second["prompt"] == "second"
        headers = [headers for method, _, headers in fake.seen if method == "POST"]
        assert headers[1]["X-Team"] == "blue" and headers[1]["X-Request-Id"] == "run-1"
        fake.bodies.clear()
        bench("--base-url", fake.url, "--backend", "vllm", *SHORT, "--served-model-name", "s", "--seed", 3)
        bench("--base-url", fake.url, "--backend", "vllm", *SHORT, "--served-model-name", "s", "--seed", 3)
        prompts = [body["prompt"] for body in fake.bodies]
        assert sorted(prompts[:3]) == sorted(prompts[3:]) and len(set(map(tuple, prompts))) == 3
        assert all(body["model"] == "s" and body["ignore_eos"] and len(body["prompt"]) == 4 for body in fake.bodies)


def test_chat(tmp_path):
    pieces = [b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n',
              b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n',
              b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n', b"data: [DONE]\n\n"]
    with FakeServer(pieces) as fake:
        done = bench("--base-url", fake.url, "--backend", "openai-chat", *SHORT)
        assert figures(done)["Total generated tokens"] == 3
        message, = fake.bodies[0]["messages"]
        assert message["role"] == "user" and len(message["content"].split()) == 4
        assert fake.bodies[0]["max_completion_tokens"] == 3


@pytest.mark.parametrize("pieces", [
    [b"".join(GOOD)],
    [bytes([byte]) for byte in b"".join(GOOD)],
    [b": ping\n\n", *(piece.replace(b"\n", b"\r\n") for piece in GOOD)],
    [b"event: completion\nid: 1\nretry: 5\n" + piece for piece in GOOD],
    [*GOOD[:-1], GOOD[-1].rstrip()],
], ids=["at once", "byte by byte", "CRLF and comments", "other fields", "no last empty line"])
def test_odd_framing(pieces):
    with FakeServer(pieces) as fake:
        numbers = figures(bench("--base-url", fake.url, *SHORT))
        assert numbers["Successful requests"] == 3
        assert numbers["Total input tokens"] == 27 and numbers["Total generated tokens"] == 15


@pytest.mark.parametrize("fake, message", [
    (FakeServer(status=503), "HTTP 503: not now"),
    (FakeServer(GOOD[:2], cut=True), "reading from .*: (partial message|end of stream|Connection reset by peer)"),
    (FakeServer(GOOD[:2]), "the stream broke off after 2 pieces of output"),
    (FakeServer([b"data: {oops\n\n"]), "an event is no JSON object: '{oops'"),
    (FakeServer([chunk("a"), b'data: {"error":{"message":"out of memory"}}\n\n']), "out of memory"),
    (FakeServer([]), "the stream ended without any output"),
], ids=["status", "connection cut", "stream cut", "no JSON", "error event", "nothing"])
def test_all_requests_failing_is_an_error(fake, message):
    with fake:
        done = bench("--base-url", fake.url, *SHORT, expect=1)
        assert figures(done)["Failed requests"] == 3
        assert re.search(f"polylora: error: all 3 requests failed, the first with: .*{message}", done.stderr)


def test_some_requests_failing_is_counted():
    def answer(body):
        return GOOD if body["model"] == "good" else [b'data: {"error":"bad adapter"}\n\n']

    with FakeServer(answer_to=answer) as fake:
        done = bench("--base-url", fake.url, *SHORT, "--num-prompts", 6, "--lora-modules", "good", "bad",
                     "--lora-assignment", "round-robin")
        assert figures(done)["Successful requests"] == 3 and figures(done)["Failed requests"] == 3
        assert done.stderr.count("bad adapter") == 3


def test_nobody_listens():
    done = bench("--port", 9, *SHORT, expect=1)
    assert "connecting to 127.0.0.1:9: Connection refused" in done.stderr


@pytest.mark.parametrize("arguments, message", [
    (["--dataset-name", "hf"], "'hf' is not one of random, prefix_repetition, custom, sharegpt"),
    (["--dataset-name", "custom"], "needs --dataset-path"),
    (["--dataset-path", "x"], "has no meaning with --dataset-name random"),
    (["--base-url", "localhost:8000"], "neither http:// nor https://"),
    (["--percentile-metrics", "ttft,foo"], "'foo' is not one of ttft"),
    (["--metric-percentiles", "101"], "not between 0 and 100"),
    (["--goodput", "itl:5"], "expected ttft:MS"),
    (["--max-concurrency", "0"], "must be greater than 0"),
    (["--ramp-up-strategy", "linear"], "needs --ramp-up-start-rps"),
    (["--extra-body", "[]"], "not a JSON object"),
    (["--header", "X"], "expected KEY=VALUE"),
    (["--use-beam-search"], "not supported"),
    (["--requestrate", "3"], "did you mean --request-rate?"),
])
def test_usage_errors(arguments, message):
    assert message in bench(*arguments, expect=2).stderr
