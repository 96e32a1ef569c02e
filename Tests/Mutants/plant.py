#!/usr/bin/env python3
"""Plants one mutant of a table in a copy of the tree: plant.py TABLE NAME COPY.

The table: "## name", "file: path", the original between "<<<" and "===", what replaces it up to ">>>".
"""
import pathlib
import re
import sys

table, name, copy = sys.argv[1:]
entry = re.compile(r"^## ([^\n]+)\nfile: ([^\n]+)\n<<<\n(.*?)\n===\n(.*?)\n?>>>$", re.MULTILINE | re.DOTALL)
text = pathlib.Path(table).read_text(encoding="utf-8")
found = [match.groups() for match in entry.finditer(text) if match.group(1) == name]
if len(found) != 1:
    sys.exit(f"{table}: {len(found)} well-formed mutants are called {name!r}")
_, path, original, replacement = found[0]
target = pathlib.Path(copy, path)
source = target.read_text(encoding="utf-8")
if source.count(original) != 1:
    sys.exit(f"{path}: the original of {name!r} is there {source.count(original)} times")
target.write_text(source.replace(original, replacement), encoding="utf-8")
