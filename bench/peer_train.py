#!/usr/bin/env python3
"""LoRA training with transformers + PEFT, as lean as that stack goes: the peer that `polylora bench train` is compared with.

Needs torch, transformers and peft from PyPI (a virtual environment of one's own; they are no dependency of polylora) and an HF
folder of the model (`polylora export` writes one from a GGUF file). Prints tokens/s of each update and the median.

    python bench/peer_train.py MODEL_FOLDER --sequence 512 --rank 16 --steps 6
"""

import argparse
import resource
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def chunked_loss(model, hidden, labels, chunk=128):
    """Cross entropy without holding all logits at once: only the rows that have a label, some at a time."""
    hidden, labels = hidden[0, :-1], labels[0, 1:]
    keep = labels != -100
    hidden, labels = hidden[keep], labels[keep]
    total = 0.0
    for begin in range(0, len(labels), chunk):
        logits = model.get_output_embeddings()(hidden[begin : begin + chunk]).float()
        total = total + torch.nn.functional.cross_entropy(logits, labels[begin : begin + chunk], reduction="sum")
    return total / len(labels)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16, attn_implementation="sdpa")
    config = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=LINEARS, task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0)
    inner = model.get_base_model()

    rates = []
    for step in range(args.steps + 1):
        ids = torch.randint(0, inner.config.vocab_size, (1, args.sequence))
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = inner.model(input_ids=ids, use_cache=False).last_hidden_state
            loss = chunked_loss(inner, hidden, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate = args.sequence / (time.perf_counter() - start)
        print(f"update {step}: {rate:.1f} tokens/s", flush=True)
        if step > 0:
            rates.append(rate)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"median {statistics.median(rates):.1f} tokens/s, best {max(rates):.1f}; peak resident {resident:.0f} MB")


if __name__ == "__main__":
    main()
