#!/bin/bash
# Makes the Python environment of the tests (.build/interop-venv with paho-mqtt) when it is not there, and prints its
# interpreter.
set -euo pipefail
venv=$(cd "$(dirname "$0")/.." && pwd)/.build/interop-venv
if ! "$venv/bin/python3" -c 'import paho.mqtt' 2>/dev/null; then
    python3 -m venv "$venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'paho-mqtt>=2,<3' >&2
fi
echo "$venv/bin/python3"
