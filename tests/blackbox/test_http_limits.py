"""What hostile, broken, slow and merely unusual clients do to the server."""

import concurrent.futures
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time

import pytest
from harness import DEFAULT_MODEL, Server

pytestmark = pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}")

LONG = {"model": "base", "prompt": "Long", "max_tokens": 1900, "ignore_eos": True, "min_tokens": 1900}


@pytest.fixture(scope="module")
def server():
    with Server(DEFAULT_MODEL, "--served-model-name", "base", "--max-model-len", 2048,
                "--enable-request-id-headers") as running:
        yield running


def wait_until(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def send_only(server, body):
    """A connection whose request was sent and whose answer nobody reads."""
    text = json.dumps(body).encode()
    connection = socket.create_connection((server.host, server.port))
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n" % len(text) + text)
    return connection


def running(server):
    return server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting")


def test_leaving_while_a_whole_answer_is_computed_cancels_it(server):
    connection = send_only(server, LONG)
    wait_until(lambda: running(server) == 1, "the request never ran")
    connection.close()
    wait_until(lambda: running(server) == 0, "the abandoned request still runs")
    assert server.metric("vllm:request_success_total", finished_reason="abort") >= 1


def test_leaving_cancels_every_choice_and_prompt(server):
    connection = send_only(server, {**LONG, "prompt": ["a", "b"], "n": 3, "temperature": 1})
    wait_until(lambda: running(server) == 6, "the requests never ran")
    connection.close()
    wait_until(lambda: running(server) == 0, "abandoned requests still run")


def test_a_client_that_does_not_read_blocks_no_one(server):
    slow = send_only(server, {**LONG, "stream": True, "logprobs": 5})
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wait_until(lambda: running(server) == 1, "the request never ran")
    assert server.complete(model="base", prompt="The capital of France is", max_tokens=1, temperature=0)["text"] == " Paris"
    slow.close()
    wait_until(lambda: running(server) == 0, "the abandoned request still runs")


def test_a_huge_body_is_refused_before_it_is_read(server):
    connection = socket.create_connection((server.host, server.port), timeout=20)
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
    assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
    connection.close()


def test_huge_headers_are_refused(server):
    connection = socket.create_connection((server.host, server.port), timeout=20)
    connection.sendall(b"GET /health HTTP/1.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n")
    assert connection.recv(4096).startswith(b"HTTP/1.1 431 ")
    connection.close()


def test_what_is_not_http_is_refused(server):
    connection = socket.create_connection((server.host, server.port), timeout=20)
    connection.sendall(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n")
    assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")
    connection.close()


def post_text(server, text):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    connection.request("POST", "/v1/completions", text, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read().decode()
    connection.close()
    return response.status, answer


def test_an_object_with_many_members_costs_little(server):
    body = "{" + ",".join(f'"a{i}":0' for i in range(400_000)) + "}"
    began = time.monotonic()
    status, answer = post_text(server, body)
    assert status == 400 and "more members" in answer
    assert time.monotonic() - began < 5


def test_errors_do_not_amplify(server):
    status, answer = post_text(server, json.dumps({"prompt": "x", "logit_bias": {f"t{i}": "x" for i in range(4000)}}))
    assert status == 400 and len(answer) < 8000
    status, answer = post_text(server, json.dumps({"prompt": "x", "n": "9" * 1_000_000}))
    assert status == 400 and len(answer) < 1000


def test_a_large_prompt_does_not_stall_streams(server):
    """A megabyte of text is tokenized beside the streams of others, not in their way."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        large = pool.submit(server.request, "POST", "/v1/completions", {"model": "base", "prompt": "word " * 400_000})
        began = time.monotonic()
        assert server.request("GET", "/health")[0] == 200
        assert time.monotonic() - began < 2
        assert large.result()[0] == 400


def test_pipelined_requests_are_answered_in_order(server):
    connection = socket.create_connection((server.host, server.port), timeout=20)
    connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\nGET /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    text = b""
    while piece := connection.recv(4096):
        text += piece
    assert text.index(b'{"version"') < text.index(b'{"detail":"Not Found"}')


def test_old_clients_get_streams_without_chunks(server):
    text = json.dumps({"model": "base", "prompt": "Hi", "max_tokens": 2, "stream": True}).encode()
    connection = socket.create_connection((server.host, server.port), timeout=20)
    connection.sendall(b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                       % len(text) + text)
    answer = b""
    while piece := connection.recv(4096):
        answer += piece
    head, body = answer.split(b"\r\n\r\n", 1)
    assert b"chunked" not in head and body.startswith(b"data: {") and body.endswith(b"data: [DONE]\n\n")


def test_browsers_may_ask(server):
    connection = http.client.HTTPConnection(server.host, server.port)
    connection.request("OPTIONS", "/v1/completions", headers={
        "Origin": "http://example.org", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization"})
    response = connection.getresponse()
    assert response.status == 200 and response.getheader("access-control-allow-origin") == "*"
    assert response.getheader("access-control-allow-headers") == "authorization"


def test_request_ids_are_honoured(server):
    connection = http.client.HTTPConnection(server.host, server.port)
    connection.request("POST", "/v1/completions", json.dumps({"model": "base", "prompt": "Hi", "max_tokens": 1}),
                       {"Content-Type": "application/json", "X-Request-Id": "my-id"})
    response = connection.getresponse()
    assert response.getheader("x-request-id") == "my-id"
    assert json.loads(response.read())["id"] == "cmpl-my-id"


def test_unix_socket(tmp_path):
    path = tmp_path / "socket"
    command = Server(DEFAULT_MODEL, "--uds", path, "--max-model-len", 512).command
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until(path.exists, "no socket", 60)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK")
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0
    assert not path.exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_tls(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate,
                    "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
                   check=True, capture_output=True)
    with Server(DEFAULT_MODEL, "--ssl-keyfile", key, "--ssl-certfile", certificate, "--max-model-len", 512,
                "--served-model-name", "base") as server:
        trust = ssl.create_default_context(cafile=certificate)
        connection = http.client.HTTPSConnection(server.host, server.port, context=trust, timeout=60)
        body = json.dumps({"model": "base", "prompt": "Hi", "max_tokens": 8, "stream": True})
        for _ in range(2):  # on one connection
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
        leaver = http.client.HTTPSConnection(server.host, server.port, context=trust, timeout=60)
        leaver.request("POST", "/v1/completions", json.dumps({**LONG, "max_tokens": 400, "min_tokens": 400}),
                       {"Content-Type": "application/json"})
        time.sleep(0.3)
        leaver.close()
        plain = socket.create_connection((server.host, server.port))
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")  # not TLS: refused, and no harm done
        plain.close()
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
