#!/usr/bin/env python3
"""Asks several models the same questions, all at the same moment; prints the answers side by side and checks them."""

import argparse
import concurrent.futures
import json
import sys
import textwrap
import time
import urllib.request
from itertools import zip_longest

WIDTH = 28


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


def side_by_side(question, answers):
    print(f"\nQ: {question}\n")
    columns = [[model, "-" * WIDTH, *textwrap.wrap(text, WIDTH), "", speed] for model, (text, speed) in answers.items()]
    for line in zip_longest(*columns, fillvalue=""):
        print("  ".join(cell.ljust(WIDTH) for cell in line).rstrip())


def failed_checks(question, answers, flags):
    text = {model: answer for model, (answer, _) in answers.items()}
    for one, other in flags.same:
        if text[one] != text[other]:
            yield f"{one} and {other} should answer the same to: {question}"
    for one, other in flags.different:
        if text[one] == text[other]:
            yield f"{one} and {other} should answer differently to: {question}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL@URL")
    parser.add_argument("--question", action="append", required=True)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--same", nargs=2, action="append", default=[], metavar="MODEL",
                        help="exit 1 unless these two give the same answer to every question")
    parser.add_argument("--different", nargs=2, action="append", default=[], metavar="MODEL",
                        help="exit 1 unless these two give different answers to every question")
    flags = parser.parse_args()
    where = dict(model.split("@", 1) for model in flags.models)
    failures = []
    with concurrent.futures.ThreadPoolExecutor(len(where)) as pool:
        for question in flags.question:
            given = pool.map(lambda model: ask(where[model], model, question, flags.max_tokens), where)
            answers = dict(zip(where, given))
            side_by_side(question, answers)
            failures += failed_checks(question, answers, flags)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
