"""GET /metrics: vLLM's names and types, an adapter label on what is counted per request, bounded cardinality."""

import pytest
from harness import DEFAULT_MODEL, Server, write_adapter

pytestmark = pytest.mark.skipif(not DEFAULT_MODEL.exists(), reason=f"no default model at {DEFAULT_MODEL}")

GAUGES = """vllm:num_requests_running vllm:num_requests_waiting vllm:num_requests_waiting_by_reason
vllm:kv_cache_usage_perc vllm:gpu_cache_usage_perc vllm:cache_config_info vllm:lora_requests_info
vllm:lora_adapter_loaded vllm:num_cpu_loaded_lora_adapters vllm:lora_adapter_load_seconds
process_resident_memory_bytes process_start_time_seconds""".split()
COUNTERS = """vllm:prefix_cache_queries_total vllm:prefix_cache_hits_total vllm:num_preemptions_total
vllm:prompt_tokens_total vllm:prompt_tokens_by_source_total vllm:prompt_tokens_cached_total
vllm:generation_tokens_total vllm:request_success_total vllm:admission_rejections_total
process_cpu_seconds_total""".split()
HISTOGRAMS = """vllm:time_to_first_token_seconds vllm:inter_token_latency_seconds
vllm:request_time_per_output_token_seconds vllm:e2e_request_latency_seconds vllm:request_queue_time_seconds
vllm:request_inference_time_seconds vllm:request_prefill_time_seconds vllm:request_decode_time_seconds
vllm:request_prompt_tokens vllm:request_generation_tokens vllm:request_max_num_generation_tokens
vllm:request_params_n vllm:request_params_max_tokens vllm:request_num_preemptions
vllm:request_prefill_kv_computed_tokens""".split()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("metrics") / "a", seed=1)


@pytest.fixture(scope="module")
def server(adapter):
    with Server(DEFAULT_MODEL, "--served-model-name", "base", "--enable-lora", "--lora-modules", f"a={adapter}",
                "--max-model-len", 512) as running:
        running.complete(model="a", prompt="Hi", max_tokens=3)
        yield running


def test_names_and_types(server):
    _, text = server.request("GET", "/metrics")
    types = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    for names, kind in ((GAUGES, "gauge"), (COUNTERS, "counter"), (HISTOGRAMS, "histogram")):
        assert {name: types.get(name) for name in names} == {name: kind for name in names}


def test_requests_count_for_their_adapter(server):
    def counts():
        return [server.metric("vllm:request_generation_tokens_sum", adapter=name) for name in ("a", "")]

    before = counts()
    server.complete(model="a", prompt="Hi", max_tokens=5, ignore_eos=True)
    server.complete(model="base", prompt="Hi", max_tokens=7, ignore_eos=True)
    assert [after - first for after, first in zip(counts(), before)] == [5, 7]
    assert server.metric("vllm:request_success_total", adapter="a", finished_reason="length", model_name="base") >= 1
    assert server.metric("vllm:lora_adapter_loaded", adapter_name="a", rank="8", level="cpu") == 1


def test_unloaded_adapters_leave_no_series(server, adapter):
    for i in range(5):
        assert server.request("POST", "/v1/load_lora_adapter", {"lora_name": f"t{i}", "lora_path": str(adapter)})[0] == 200
        server.complete(model=f"t{i}", prompt="Hi", max_tokens=2)
    assert 'adapter="t4"' in server.request("GET", "/metrics")[1]
    for i in range(5):
        assert server.request("POST", "/v1/unload_lora_adapter", {"lora_name": f"t{i}"})[0] == 200
    assert '"t' not in server.request("GET", "/metrics")[1]


def test_adapters_are_listed(server, adapter):
    entry, = server.request("GET", "/v1/lora_adapters")[1]["data"]
    assert entry["lora_name"] == "a" and entry["lora_path"] == str(adapter) and entry["rank"] == 8
    assert entry["resident"] and entry["bytes"] > 0 and entry["load_seconds"] >= 0 and entry["generation"] > 0
