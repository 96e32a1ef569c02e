#!/bin/bash
# Meshes of real nodes: what heals and what is refused. 
#
#   Interop/mesh/run.sh [SCRIPT…]    check_tools matrix shows hostile_mesh
#
# APUS names the program (default .build/release/apus). MESH_NET=loopback does without network namespaces, MESH_KEEP=DIR
# keeps the logs of what fails there, MESH_LONG=1 takes its time.
set -uo pipefail
cd "$(dirname "$0")" || exit
failed=
[ $# -gt 0 ] || set -- check_tools matrix shows hostile_mesh
for script in "$@"; do
    echo "== $script"
    python3 "$script.py" || failed="$failed $script"
done
if [ -n "$failed" ]; then
    echo "mesh: FAILED:$failed"
    exit 1
fi
echo "mesh: all hold"
