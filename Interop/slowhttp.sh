#!/bin/bash
# Debian's slowhttptest against a node's HTTP listener: slow headers, slow bodies and slow reads, 1,000 connections and
# 20 seconds each. Its probe must find the service available all the time.
set -euo pipefail
cd "$(dirname "$0")"
. ./node.sh

cat >"$scratch/node.yaml" <<YAML
node: { name: slow, data: $scratch/data, lanes: 2 }
listeners:
  - { protocol: mqtt, listen: "127.0.0.1:0" }
  - { protocol: http, listen: "127.0.0.1:0" }
YAML
start_node "$scratch/node.yaml"
http=$(sed -n 's/.*"event":"ready".*"protocol":"http","address":"\([^"]*\)".*/\1/p' "$node_log")
[ -n "$http" ] || { echo "FAILED: no HTTP listener in the ready line" >&2; exit 1; }

# attack NAME ARGUMENTS…
attack() {
    local name=$1 log=$scratch/$1.log
    shift
    slowhttptest -c 1000 -r 500 -l 20 -i 2 -p 1 -v 1 "$@" >"$log" 2>&1 || true
    # The program draws its report anew every few seconds, in colours.
    sed 's/\x1b\[[0-9;]*m//g' "$log" >"$log.plain"
    local available unavailable connected
    available=$(grep -cE 'service available: *YES' "$log.plain" || true)
    unavailable=$(grep -cE 'service available: *NO' "$log.plain" || true)
    connected=$(sed -n 's/^connected: *//p' "$log.plain" | sort -n | tail -1)
    if [ "$available" -lt 3 ] || [ "$unavailable" -gt 0 ] || [ "${connected:-0}" -lt 900 ]; then
        tail -40 "$log.plain" >&2
        echo "FAILED: $name: available in $available reports, not in $unavailable, ${connected:-0} connected" >&2
        exit 1
    fi
    summary+="$name: available in $available of $available reports with ${connected} connections; "
}

summary=
attack headers -H -u "http://$http/"
attack bodies -B -s 100000 -u "http://$http/TOPIC/slow"
attack reads -X -k 10 -w 512 -y 1024 -n 5 -z 32 -u "http://$http/openapi.json"
curl -sSf -o "$scratch/answer" "http://$http/"
stop_node
echo "slowhttp: ${summary%; }"
