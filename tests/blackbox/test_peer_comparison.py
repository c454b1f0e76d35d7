"""bench/peers: the load generator counts what the server sends, and says so when it sends an error."""

import sys

import pytest
from harness import DEFAULT_MODEL, ROOT, Server

sys.path.insert(0, str(ROOT / "bench" / "peers"))
import compare  # noqa: E402
import http_load  # noqa: E402
import measures  # noqa: E402

needs_model = pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}")


@needs_model
def test_streams_are_counted_and_timed():
    bodies = [{"model": "base", "prompt": prompt, "max_tokens": 9 + i, "temperature": 0, "ignore_eos": True, "stream": True,
               "stream_options": {"include_usage": True}} for i, prompt in enumerate(measures.prompts(1, 6, 20))]
    with Server(DEFAULT_MODEL, "--served-model-name", "base", "--max-model-len", 256) as server:
        run = http_load.run(server.port, bodies, 4)
        assert sorted(stream["tokens"] for stream in run["streams"]) == [9, 10, 11, 12, 13, 14]
        assert all(0 < stream["first"] < stream["last"] <= run["seconds"] for stream in run["streams"])
        assert server.metric("vllm:generation_tokens_total") == measures.tokens_of(run)
        with pytest.raises(RuntimeError, match="no-such-model"):
            http_load.run(server.port, [{**bodies[0], "model": "no-such-model"}], 1)


def test_a_marker_split_over_two_reads_is_one_event():
    class Halves(http_load.Stream):
        def __init__(self):
            self.tail, self.first, self.last, self.began = b"", None, None, 0.0

    stream = Halves()
    stream.data_received(b"HTTP/1.1 200 OK\r\n\r\nda")
    assert stream.first is None
    stream.data_received(b'ta: {"choices": []}\n\n')
    first = stream.first
    assert first is not None
    stream.data_received(b": comment\n\n")
    assert (stream.first, stream.last) == (first, first)


def test_the_table_has_medians_and_ratios_of_rounds():
    results = {"M": {"rows": {"decode": {"polylora": [200.0, 300.0, 100.0], "other": [100.0, 100.0, 100.0]}},
                     "machine": [{"read_gb_s": 30.2, "bf16_gflop_s": 470.0}, {"read_gb_s": 28.0, "bf16_gflop_s": 468.0}]}}
    last = compare.markdown(results, ["other", "absent"]).splitlines()[-1]
    assert last == "| M: decode | 200 (100–300) | 100 (100–100) | – | 2.00× | – | 28–30 | 468–470 |"
