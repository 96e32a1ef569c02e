#!/usr/bin/env python3
"""Writes the manual page (roff) from what the program says of itself.

    packaging/manual.py [PROGRAM] > apus.1
"""

import datetime
import json
import os
import subprocess
import sys

PROGRAM = sys.argv[1] if len(sys.argv) > 1 else ".build/release/apus"


def said(*arguments):
    return subprocess.run([PROGRAM, *arguments], check=True, capture_output=True, text=True).stdout


def escaped(text):
    """Text for roff: no escapes, no lines that look like requests."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return "\n".join("\\&" + line if line[:1] in ".'" else line for line in text.split("\n"))


def flag(argument):
    """`-t, --topic <filter>`, in bold and italics."""
    if argument["kind"] == "positional":
        return f"\\fI{escaped(argument['valueName'])}\\fR"
    value = f" \\fI{escaped(argument['valueName'])}\\fR" if argument["kind"] == "option" else ""
    names = [("--" if name["kind"] == "long" else "-") + name["name"]
             for name in argument.get("names") or []]
    return ", ".join(f"\\fB{escaped(name)}\\fR" for name in sorted(names, key=len)) + value


def paragraphs(text):
    """A discussion: text is filled, what is indented is shown as it is."""
    shown = False
    for line in text.split("\n"):
        indented = line.startswith("  ")
        if indented != shown:
            yield ".RS 4\n.nf" if indented else ".fi\n.RE"
            shown = indented
        if not line.strip():
            yield ".PP" if not shown else ""
        elif line.rstrip().endswith(":") and not indented:
            yield ".PP\n" + escaped(line)
        else:
            yield escaped(line[2:] if indented else line)
    if shown:
        yield ".fi\n.RE"


def arguments(command):
    seen = [a for a in command.get("arguments") or [] if a.get("shouldDisplay", True)]
    for argument in seen:
        names = [name["name"] for name in argument.get("names") or []]
        if set(names) & {"help", "version"}:
            continue
        yield ".TP\n" + flag(argument) + (" ..." if argument["isRepeating"] else "")
        text = argument.get("abstract") or ""
        if argument.get("defaultValue"):
            text += f" Default: {argument['defaultValue']}."
        yield escaped(text or "See above.")


def commands(command, path):
    for sub in command.get("subcommands") or []:
        if sub["commandName"] == "help" or not sub.get("shouldDisplay", True):
            continue
        name = f"{path} {sub['commandName']}"
        yield f".SS {escaped(name)}"
        yield escaped(sub.get("abstract") or "")
        if sub.get("discussion"):
            yield ".PP"
            yield from paragraphs(sub["discussion"])
        yield from arguments(sub)
        yield from commands(sub, name)


def main():
    root = json.loads(said("--experimental-dump-help"))["command"]
    version = said("version").split()[1]
    moment = datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")) or
                                             datetime.datetime.now().timestamp(), datetime.timezone.utc)
    lines = [
        f'.TH APUS 1 "{moment:%Y-%m-%d}" "Apus {version}" "User Commands"',
        ".SH NAME",
        "apus \\- event mesh router: MQTT, AMQP 1.0, HTTP and WebSocket, one set of topics over many nodes",
        ".SH SYNOPSIS",
        ".B apus\n.I command\n.RI [ options ]",
        ".SH DESCRIPTION",
        *paragraphs(root.get("discussion") or ""),
        ".PP",
        "Every command explains itself with\n.BR \\-\\-help ,\nas below.",
        ".SH COMMANDS",
        *commands(root, "apus"),
        ".SH FILES",
        ".TP\n.I /etc/apus/apus.yaml",
        "The configuration that the service\n.I apus.service\nstarts the node with.",
        ".TP\n.I /etc/apus/environment",
        "Variables of the service: secrets, and keys of the configuration as APUS_...",
        ".TP\n.I /var/lib/apus",
        "What the node keeps.",
        ".SH ENVIRONMENT",
        "Every key of the configuration has a variable, for example\n.B APUS_NODE_NAME\nfor node.name;",
        ".B apus check \\-\\-keys\nlists them.",
        ".TP\n.B APUS_CONFIG",
        "The configuration, when\n.B \\-\\-config\ndoes not name one.",
        ".TP\n.B APUS_ADMIN_PASSWORD",
        "The password of the commands that manage a node.",
        ".SH SEE ALSO",
        ".BR mosquitto_sub (1),\n.BR mosquitto_pub (1),\n.BR systemctl (1)",
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
