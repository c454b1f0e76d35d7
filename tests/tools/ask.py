#!/usr/bin/env python3
"""Asks several models of one server the same question at the same moment; prints the answers side by side."""

import argparse
import concurrent.futures
import json
import textwrap
import time
import urllib.request
from itertools import zip_longest

WIDTH = 36


def ask(url, model, question, max_tokens):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens,
            "temperature": 0}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    began = time.monotonic()
    with urllib.request.urlopen(request, timeout=300) as response:
        answer = json.load(response)
    seconds = time.monotonic() - began
    tokens = answer["usage"]["completion_tokens"]
    return answer["choices"][0]["message"]["content"], f"{tokens} tokens, {tokens / seconds:.0f} tokens/s"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--question", required=True)
    parser.add_argument("--max-tokens", type=int, default=64)
    flags = parser.parse_args()
    with concurrent.futures.ThreadPoolExecutor(len(flags.models)) as pool:
        answers = list(pool.map(lambda m: ask(flags.url, m, flags.question, flags.max_tokens), flags.models))
    print(f"\nQ: {flags.question}\n")
    columns = [[model, "-" * WIDTH, *textwrap.wrap(text, WIDTH), "", speed]
               for model, (text, speed) in zip(flags.models, answers)]
    for line in zip_longest(*columns, fillvalue=""):
        print("  ".join(cell.ljust(WIDTH) for cell in line).rstrip())


if __name__ == "__main__":
    main()
