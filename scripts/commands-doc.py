#!/usr/bin/env python3
"""Writes docs/commands.md, the reference of the command line, from what the program says of itself.

    scripts/commands-doc.py            write it
    scripts/commands-doc.py --check    end with 1, and say where, when the document is out of date

APUS names the program (default .build/release/apus).
"""

import difflib
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/commands.md"
APUS = os.environ.get("APUS", str(ROOT / ".build/release/apus"))

HEAD = """# Commands

What `apus help COMMAND` says, for reading in a browser. `scripts/commands-doc.py` makes this page, and a test \
compares it with the program; do not write into it. Every command has `--help` and `--version`. Exit codes: 0 done, \
1 failed, 2 usage, 78 configuration ([operations](operations.md#start-and-stop)).
"""
# Options that many commands have are written down once: the command that stands for them, their name and anchor.
MANAGEMENT = ("status", "Reaching a node", "reaching-a-node")
MANAGEMENT_TEXT = """Commands that ask a running node take these. Who may is in \
[security](security.md#who-may-manage)."""


def program(*arguments):
    done = subprocess.run([APUS, *arguments], stdout=subprocess.PIPE, text=True, timeout=30)
    return done.stdout


def options(command):
    """The arguments of a command without those that all commands have."""
    return [
        each for each in command.get("arguments", [])
        if each["shouldDisplay"] and not {name["name"] for name in each.get("names", [])} & {"help", "version"}
    ]


def spelling(argument):
    """How an argument is written: `-t, --topic <topic>`."""
    value = f"<{argument['valueName']}>"
    if argument["kind"] == "positional":
        return f"`{value}`"
    dashes = {"short": "-", "long": "--", "longWithSingleDash": "-"}
    names = sorted((dashes[name["kind"]] + name["name"] for name in argument["names"]), key=len)
    return "`" + ", ".join(names) + ("" if argument["kind"] == "flag" else f" {value}") + "`"


def table(arguments):
    """A row for each argument; without a word of its own it says only how it is written."""
    lines = ["| | |", "|---|---|"]
    for argument in arguments:
        text = argument.get("abstract", "")
        if argument.get("defaultValue"):
            text += f" Default: `{argument['defaultValue']}`."
        if argument["isRepeating"] and "repeatable" not in text:
            text += " Repeatable."
        if not argument["isOptional"] and argument["kind"] != "positional":
            text += " Required."
        cells = spelling(argument), text.strip()
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return lines


def discussion(text):
    """The long text: indented lines are commands."""
    lines, code = [], False
    for line in text.splitlines():
        if line.startswith("  ") != code:
            if not code and lines and lines[-1]:
                lines.append("")
            lines.append("```")
            if code and line:
                lines.append("")
            code = not code
        lines.append(line[2:] if code else line)
    if code:
        lines.append("```")
    return lines


def usage(path):
    for line in program("help", *path).splitlines():
        if line.startswith("USAGE: "):
            return line.removeprefix("USAGE: ")
    raise SystemExit(f"apus help {' '.join(path)}: no usage")


def chapter(command, path, shared):
    """A command with what is below it."""
    lines = ["", "#" * (1 + len(path)) + f" apus {' '.join(path)}", "", command["abstract"]]
    if command.get("aliases"):
        lines += ["", "Also: " + ", ".join(f"`{name}`" for name in command["aliases"]) + "."]
    below = [each for each in command.get("subcommands", []) if each["commandName"] != "help"]
    if not below:
        lines += ["", "```", usage(path), "```"]
    if command.get("discussion"):
        lines += ["", *discussion(command["discussion"])]
    if not below:
        own = options(command)
        takes_shared = all(each in own for each in shared)
        if takes_shared:
            own = [each for each in own if each not in shared]
        if own:
            lines += ["", *table(own)]
        if takes_shared:
            also = "And the options" if own else "The options"
            lines += ["", f"{also} of [{MANAGEMENT[1].lower()}](#{MANAGEMENT[2]})."]
    for each in below:
        lines += chapter(each, (*path, each["commandName"]), shared)
    return lines


def document():
    top = json.loads(program("--experimental-dump-help"))["command"]
    commands = [each for each in top["subcommands"] if each["commandName"] != "help" and each["shouldDisplay"]]
    shared = options(next(each for each in commands if each["commandName"] == MANAGEMENT[0]))
    lines = [HEAD, "| | |", "|---|---|"]
    for each in commands:
        name = each["commandName"]
        lines.append(f"| [`apus {name}`](#apus-{name}) | {each['abstract']} |")
    lines += ["", f"## {MANAGEMENT[1]}", "", MANAGEMENT_TEXT, "", *table(shared)]
    for each in commands:
        lines += chapter(each, (each["commandName"],), shared)
    return "\n".join(lines) + "\n"


def main():
    text = document()
    if sys.argv[1:] == ["--check"]:
        there = DOCUMENT.read_text() if DOCUMENT.exists() else ""
        if there != text:
            differences = difflib.unified_diff(there.splitlines(), text.splitlines(), "docs/commands.md", APUS, n=0)
            print("\n".join(list(differences)[:40]))
            sys.exit("docs/commands.md is out of date: run scripts/commands-doc.py")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
