#!/bin/bash
# Makes the Python environment of the tests (.build/interop-venv with the client libraries) when it is not there or not
# of the versions in constraints.txt, and prints its interpreter.
set -euo pipefail
constraints=$(cd "$(dirname "$0")" && pwd)/constraints.txt
venv=$(cd "$(dirname "$0")/.." && pwd)/.build/interop-venv
modules="paho.mqtt, aiomqtt, gmqtt, selenium, websockets, yaml, schemathesis, proton, azure.servicebus, websocket"
modules="$modules, cryptography"
if ! cmp -s "$constraints" "$venv/constraints.txt" || ! "$venv/bin/python3" -c "import $modules" 2>/dev/null; then
    # aiomqtt stands on paho; both agree on 2.x. python-qpid-proton is compiled, which takes half a minute; pip keeps
    # the result.
    python3 -m venv "$venv" >&2
    "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check -c "$constraints" \
        'paho-mqtt>=2,<3' 'aiomqtt>=2,<3' 'gmqtt>=0.7,<1' 'selenium>=4.20,<5' 'websockets>=13,<17' \
        'PyYAML>=6,<7' 'schemathesis>=4,<5' 'python-qpid-proton>=0.39,<1' 'azure-servicebus>=7.14,<8' \
        'websocket-client>=1.8,<2' 'cryptography>=42' >&2
    cp "$constraints" "$venv/constraints.txt"
fi
echo "$venv/bin/python3"
