"""Streaming completions over HTTP, many at a time on one thread: light enough to share two cores with the server.

Nothing is parsed while tokens arrive, only events counted; what `usage` says is read when a stream has ended. Works with
any OpenAI-compatible server that takes prompts of token ids.
"""

import asyncio
import json
import re
import time

EVENT = b"data: {"
KEPT = 4096  # bytes of a stream's end: more than its last event with `usage`


class Stream(asyncio.Protocol):
    """One request: when its first and last event came, seconds after it was sent, and how many tokens it says it has."""

    def __init__(self, path, body):
        text = json.dumps(body).encode()
        head = (f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", "Content-Type: application/json",
                f"Content-Length: {len(text)}", "", "")
        self.request = "\r\n".join(head).encode() + text
        self.tail = b""
        self.first = self.last = None
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.began = time.perf_counter()
        transport.write(self.request)

    def data_received(self, data):
        seen = len(EVENT) - 1  # an event's mark may be split over two reads, and must not be counted twice
        if EVENT in self.tail[-seen:] + data:
            self.last = time.perf_counter() - self.began
            self.first = self.first or self.last
        self.tail = (self.tail + data)[-KEPT:]

    def connection_lost(self, error):
        self.ended.set_result(self.result())

    def result(self):
        tokens = re.findall(rb'"completion_tokens"\s*:\s*(\d+)', self.tail)
        if not tokens or self.first is None:
            return {"error": self.tail.decode("utf-8", "replace")}
        return {"first": self.first, "last": self.last, "tokens": int(tokens[-1])}


async def run_streams(port, bodies, concurrency):
    waiting = iter(bodies)
    results = []

    async def worker():
        for body in waiting:
            _, stream = await asyncio.get_running_loop().create_connection(
                lambda: Stream("/v1/completions", body), "127.0.0.1", port)
            results.append(await stream.ended)

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return results


def run(port, bodies, concurrency):
    """{"seconds": of all together, "streams": one result each}; raises on the first stream that failed."""
    began = time.perf_counter()
    streams = asyncio.run(run_streams(port, bodies, concurrency))
    seconds = time.perf_counter() - began
    for stream in streams:
        if "error" in stream:
            raise RuntimeError(f"port {port}: a stream ended without usage: {stream['error'][-400:]}")
    return {"seconds": seconds, "streams": streams}
