#!/bin/bash
# Makes the Python environment of the tests (.build/interop-venv with the client libraries) when it is not there, and
# prints its interpreter.
set -euo pipefail
venv=$(cd "$(dirname "$0")/.." && pwd)/.build/interop-venv
if ! "$venv/bin/python3" -c 'import paho.mqtt, aiomqtt, gmqtt, selenium, websockets, yaml, schemathesis, proton' \
    2>/dev/null; then
    # Proton has a library of the system inside, so it comes from the system with it, for the system's Python.
    python=python3
    ! /usr/bin/python3 -c 'import proton' 2>/dev/null || python=/usr/bin/python3
    "$python" -m venv --clear --system-site-packages "$venv" >&2
    # aiomqtt stands on paho; both agree on 2.x.
    "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check 'paho-mqtt>=2,<3' 'aiomqtt>=2,<3' \
        'gmqtt>=0.7,<1' 'selenium>=4.20,<5' 'websockets>=13,<17' 'PyYAML>=6,<7' 'schemathesis>=4,<5' >&2
    # Elsewhere it is built, which takes a C compiler.
    "$venv/bin/python3" -c 'import proton' 2>/dev/null ||
        "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check 'python-qpid-proton>=0.37,<1' >&2
fi
echo "$venv/bin/python3"
