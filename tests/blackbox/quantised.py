"""Writes small Llama checkpoints in every quantised format, and beside each the model that it stands for in f32.

The codes are made here with numpy from the formats' descriptions; w = scale * (q - zero) is computed from the codes, so a
reader that takes a bit from the wrong place computes another model."""

import json
import pathlib
import struct

from harness import DATA, read_safetensors, write_safetensors

HIDDEN, HEADS, KV_HEADS, LAYERS, VOCAB = 256, 8, 4, 2, 384
MODULES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (128, HIDDEN), "self_attn.v_proj": (128, HIDDEN),
           "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (512, HIDDEN), "mlp.up_proj": (512, HIDDEN),
           "mlp.down_proj": (HIDDEN, 512)}
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN,
          "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
          "intermediate_size": 512, "hidden_act": "silu", "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
          "rope_theta": 10000.0, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
          "torch_dtype": "float32"}


def _np():
    import numpy
    return numpy


def f32(values):
    return ("F32", list(values.shape), values.astype("<f4").tobytes())


def f16(values):
    return ("F16", list(values.shape), values.astype("<f2").tobytes())


def i32(values):
    return ("I32", list(values.shape), values.astype("<u4").tobytes())


def i8(values):
    return ("I8", list(values.shape), values.astype("i1").tobytes())


def pack(values, bits, axis):
    """[…] unsigned integers -> 32-bit words along `axis`, a little-endian stream of bits."""
    np = _np()
    lines = np.moveaxis(values, axis, -1).astype(np.uint64)
    stream = ((lines[..., None] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)).reshape(*lines.shape[:-1], -1)
    stream = np.pad(stream, [(0, 0)] * (stream.ndim - 1) + [(0, -stream.shape[-1] % 32)])
    words = (stream.reshape(*stream.shape[:-1], -1, 32) << np.arange(32, dtype=np.uint64)).sum(axis=-1)
    return np.moveaxis(words.astype(np.uint32), -1, axis)


def interleave(values):
    """AWQ: of every eight along the last axis 0, 2, 4, 6, 1, 3, 5, 7 are packed in this order."""
    return values.reshape(*values.shape[:-1], -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]].reshape(values.shape)


def codes_of(w, bits, group, symmetric, order=None):
    """(q [N,K], scale [N,G] f16, zero [N,G], the matrix that they stand for, group of each column)"""
    np = _np()
    n, k = w.shape
    column_group = np.arange(k) // group if order is None else np.argsort(order) // group
    groups, top = k // group, 2 ** bits - 1
    q, scale, zero = np.zeros((n, k)), np.zeros((n, groups), np.float16), np.zeros((n, groups))
    for g in range(groups):
        part = w[:, column_group == g]
        low, high = part.min(1), part.max(1)
        if symmetric:
            scale[:, g] = np.abs(part).max(1) / max(1, top // 2)
            zero[:, g] = 2 ** (bits - 1)
        else:
            scale[:, g] = (high - low) / top
            zero[:, g] = np.clip(np.round(-low / scale[:, g].astype(float)), 1, top)
        s = scale[:, g].astype(float)[:, None]
        q[:, column_group == g] = np.clip(np.round(part / s) + zero[:, g][:, None], 0, top)
    s, z = scale.astype(float)[:, column_group], zero[:, column_group]
    return q.astype(int), scale, zero.astype(int), s * (q - z), column_group


def gptq(bits=4, group=128, symmetric=True, version="gptq", act_order=False):
    def write(w, rng):
        np = _np()
        order = rng.permutation(w.shape[1]) if act_order else None
        q, scale, zero, values, column_group = codes_of(w, bits, group, symmetric, order)
        stored = zero if version == "gptq_v2" else zero - 1
        return {"qweight": i32(pack(q.T, bits, 0)), "qzeros": i32(pack(stored.T, bits, 1)), "scales": f16(scale.T),
                "g_idx": i32(column_group)}, values
    return write, {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric, "desc_act": act_order,
                   "checkpoint_format": version}


def awq(group=64):
    def write(w, rng):
        q, scale, zero, values, _ = codes_of(w, 4, group, symmetric=False)
        return {"qweight": i32(pack(interleave(q.T), 4, 1)), "qzeros": i32(pack(interleave(zero.T), 4, 1)),
                "scales": f16(scale.T)}, values
    return write, {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}


def compressed(bits=4, group=32, symmetric=True, act_order=False):
    def write(w, rng):
        np = _np()
        order = rng.permutation(w.shape[1]) if act_order else None
        q, scale, zero, values, column_group = codes_of(w, bits, group or w.shape[1], symmetric, order)
        tensors = {"weight_packed": i32(pack(q, bits, 1)), "weight_scale": f16(scale),
                   "weight_shape": ("I64", [2], struct.pack("<2q", *w.shape))}
        if not symmetric:
            tensors["weight_zero_point"] = i32(pack(zero, bits, 0))
        if act_order:
            tensors["weight_g_idx"] = i32(column_group)
        return tensors, values
    return write, {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"]}


def int8(symmetric=True):
    def write(w, rng):
        q, scale, zero, values, _ = codes_of(w, 8, w.shape[1], symmetric)
        tensors = {"weight": i8(q - 128), "weight_scale": f32(scale)}
        if not symmetric:
            tensors["weight_zero_point"] = i8(zero - 128)
        return tensors, values
    return write, {"quant_method": "compressed-tensors", "format": "int-quantized"}


def e4m3():
    """The values of all bytes."""
    np = _np()
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    values = np.where(exponent == 0, mantissa / 8 * 2.0 ** -6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    return np.where(bits & 128, -values, values)


def fp8(kind):
    def write(w, rng):
        np = _np()
        rows, cols = {"tensor": w.shape, "channel": (1, w.shape[1]), "block": (128, 128)}[kind]
        grid = (-(-w.shape[0] // rows), -(-w.shape[1] // cols))
        scale = rng.uniform(1e-4, 3e-4, grid).astype(np.float32)
        codes = rng.integers(0, 0x70, w.shape) | (rng.integers(0, 2, w.shape) << 7)
        spread = np.repeat(np.repeat(scale, rows, 0), cols, 1)[:w.shape[0], :w.shape[1]]
        name = "weight_scale_inv" if kind == "block" else "weight_scale"
        stored = f32(scale.reshape(()) if kind == "tensor" else scale)
        return {"weight": ("F8_E4M3", list(w.shape), codes.astype(np.uint8).tobytes()), name: stored}, \
            e4m3()[codes] * spread
    if kind == "channel":
        return write, {"quant_method": "compressed-tensors", "format": "float-quantized"}
    return write, {"quant_method": "fp8", **({"weight_block_size": [128, 128]} if kind == "block" else {})}


KINDS = {
    "gptq4": gptq(), "gptq4-asym": gptq(symmetric=False), "gptq4-v2": gptq(symmetric=False, version="gptq_v2"),
    "gptq4-act-order": gptq(act_order=True), "gptq2": gptq(bits=2, group=32), "gptq3": gptq(bits=3, group=64),
    "gptq8": gptq(bits=8), "awq": awq(), "ct4": compressed(), "ct4-asym": compressed(symmetric=False, group=128),
    "ct4-channel": compressed(group=0), "ct4-act-order": compressed(act_order=True), "ct8": compressed(bits=8),
    "int8": int8(), "int8-asym": int8(symmetric=False), "fp8": fp8("tensor"), "fp8-channel": fp8("channel"),
    "fp8-block": fp8("block"),
}


def plain_tensors(rng, vocab=VOCAB):
    np = _np()
    tensors = {"model.embed_tokens.weight": rng.standard_normal((vocab, HIDDEN)) * 0.1,
               "model.norm.weight": 1 + 0.1 * rng.standard_normal(HIDDEN)}
    for layer in range(LAYERS):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = 1 + 0.1 * rng.standard_normal(HIDDEN)
    return {name: values.astype(np.float32) for name, values in tensors.items()}


def write_folder(folder, tensors, extra=None):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **(extra or {})}))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def write_models(root, kind, seed=3, vocab=VOCAB):
    """(quantised folder, the same model in f32)"""
    np = _np()
    rng = np.random.default_rng(seed)
    write, settings = KINDS[kind]
    plain = {name: f32(values) for name, values in plain_tensors(rng, vocab).items()}
    stored, wide = dict(plain), dict(plain)
    for layer in range(LAYERS):
        for module, shape in MODULES.items():
            name = f"model.layers.{layer}.{module}"
            parts, values = write(rng.standard_normal(shape) * 0.08, rng)
            stored.update({f"{name}.{part}": tensor for part, tensor in parts.items()})
            wide[f"{name}.weight"] = f32(values)
    root = pathlib.Path(root)
    return (write_folder(root / kind, stored, {"quantization_config": settings, "vocab_size": vocab}),
            write_folder(root / f"{kind}-f32", wide, {"vocab_size": vocab}))


GGML_TYPES = {"F32": 0, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12,
              "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23}
GGUF_NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
              "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
              "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def gguf_bytes(metadata, tensors):
    """tensors: {name: (type name, shape outermost first, bytes)}"""
    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        if isinstance(value, str):
            header += text(key) + struct.pack("<I", 8) + text(value)
        elif isinstance(value, float):
            header += text(key) + struct.pack("<If", 6, value)
        else:
            header += text(key) + struct.pack("<II", 4, value)
    data = b""
    for name, (kind, shape, raw) in tensors.items():
        header += text(name) + struct.pack("<I", len(shape))
        header += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", GGML_TYPES[kind], len(data))
        data += raw + b"\0" * (-len(raw) % 32)
    return header + b"\0" * (-len(header) % 32) + data


def stored_rows(count, heads):
    """The rows of a matrix in the order that llama.cpp stores them: the rotary halves of q's and k's heads interleaved."""
    if not heads:
        return range(count)
    size = count // heads
    return [head * size + half * (size // 2) + i
            for head in range(heads) for i in range(size // 2) for half in (0, 1)]


def write_gguf_models(root, kind, seed=5):
    """The linears are rows of 256 random values from tests/data/quant, with what the reference reads them as."""
    np = _np()
    rng = np.random.default_rng(seed)
    vectors = read_safetensors(DATA / "quant" / "ggml_blocks.safetensors")
    raw, values = vectors[f"{kind}.blocks"][2], np.frombuffer(vectors[f"{kind}.values"][2], "<f4").reshape(2, 256)
    half = len(raw) // 2
    blocks = [raw[:half], raw[half:]]
    plain = plain_tensors(rng)
    wide = {name: f32(tensor) for name, tensor in plain.items()}
    stored = {"token_embd.weight": wide["model.embed_tokens.weight"], "output_norm.weight": wide["model.norm.weight"]}
    for layer in range(LAYERS):
        for module, name in GGUF_NAMES.items():
            hf, gguf = f"model.layers.{layer}.{module}.weight", f"blk.{layer}.{name}.weight"
            if module not in MODULES:
                stored[gguf] = wide[hf]
                continue
            n, k = MODULES[module]
            choice = rng.integers(0, 2, (n, k // 256))
            wide[hf] = f32(values[choice].reshape(n, k))
            heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(module, 0)
            rows = stored_rows(n, heads)
            stored[gguf] = (kind, [n, k], b"".join(blocks[c] for row in rows for c in choice[row]))
    metadata = {"general.architecture": "llama", "llama.block_count": LAYERS, "llama.context_length": 512,
                "llama.embedding_length": HIDDEN, "llama.feed_forward_length": 512, "llama.attention.head_count": HEADS,
                "llama.attention.head_count_kv": KV_HEADS, "llama.attention.layer_norm_rms_epsilon": 1e-5,
                "llama.rope.freq_base": 10000.0, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
    root = pathlib.Path(root)
    file = root / f"{kind}.gguf"
    file.write_bytes(gguf_bytes(metadata, stored))
    return file, write_folder(root / f"{kind}-f32", wide)


def write_small_adapter(folder, seed=11, rank=4):
    np = _np()
    rng = np.random.default_rng(seed)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for layer in range(LAYERS):
        for module, (n, k) in MODULES.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{prefix}.lora_A.weight"] = f32(rng.standard_normal((rank, k)) * k ** -0.5)
            tensors[f"{prefix}.lora_B.weight"] = f32(rng.standard_normal((n, rank)) * 0.3)
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "small", "r": rank, "lora_alpha": 8,
        "target_modules": sorted(name.split(".")[1] for name in MODULES), "bias": "none", "use_rslora": False,
        "use_dora": False, "modules_to_save": None, "fan_in_fan_out": False}))
    return folder
