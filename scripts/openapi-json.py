#!/usr/bin/env python3
"""Writes Sources/Web/Console/openapi.json from openapi.yaml beside it; with --check only says whether it is current.

Needs PyYAML (Debian: python3-yaml; Interop/python.sh makes an environment that has it).
"""

import json
import pathlib
import sys

import yaml

console = pathlib.Path(__file__).resolve().parent.parent / "Sources/Web/Console"
source = console / "openapi.yaml"
target = console / "openapi.json"
text = json.dumps(yaml.safe_load(source.read_text()), ensure_ascii=False, separators=(",", ":")) + "\n"
if "--check" in sys.argv:
    if target.read_text() != text:
        sys.exit(f"{target.name} is not what {source.name} says: run scripts/openapi-json.py")
else:
    target.write_text(text)
