#!/usr/bin/env python3
"""Walks the #include lines of src/ and fails on an edge that the dependency table of docs/architecture.md forbids."""

import pathlib
import re
import sys

SRC = pathlib.Path(__file__).resolve().parents[2] / "src"
ALLOWED = {
    "base": set(),
    "ops": {"base"},
    "text": {"base"},
    "grammar": {"base", "text"},
    "model": {"base", "ops"},
    "io": {"base", "ops", "model"},
    "engine": {"base", "ops", "model", "io"},
    "hub": {"base"},
    "load": {"base", "text"},
    "tune": {"base", "ops", "text", "model", "io"},
    "serve": {"base", "text", "grammar", "engine"},
    "cli": {"base", "ops", "text", "grammar", "model", "io", "engine", "tune", "serve", "load", "hub"},
}
INCLUDE = re.compile(r'^\s*#include "([a-z_]+)/', re.MULTILINE)


def main():
    errors = []
    for path in sorted(SRC.rglob("*")):
        if path.suffix not in {".h", ".cc", ".cu"}:
            continue
        layer = path.relative_to(SRC).parts[0]
        if layer not in ALLOWED:
            errors.append(f"{path}: the folder {layer} has no row in the dependency table")
            continue
        for included in INCLUDE.findall(path.read_text()):
            if included != layer and included not in ALLOWED[layer]:
                errors.append(f"{path}: {layer} must not include {included}/")
    print("\n".join(errors) or "the layers hold")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
