#!/bin/bash
# Runs every interoperation test: third-party clients and hostile ones against a real node, one line each.
#
#   Interop/run.sh [NAME…]      all, or those whose names are given
#
# Each test starts its own node on a free port and ends it. APUS names the program (default .build/release/apus).
# Logs of tests that fail stay in .build/interop-logs.
set -uo pipefail
# Tests of thousands of connections need as many descriptors.
ulimit -n "$(ulimit -Hn)"
cd "$(dirname "$0")" || exit
logs=../.build/interop-logs
mkdir -p "$logs"
everything="reference.py \
    mosquitto_clients.sh mosquitto5.sh paho_client.py paho5.py aiomqtt_client.py gmqtt_client.py hostile.py \
    hostile5.py hostile_http.py slowhttp.py access.sh certs.sh admin.sh metrics.sh takeovers.py killed_clients.py \
    matrix.py http_clients.py http_rules.py websocket_clients.py websocket_json.py request_reply.py web_stops.py \
    browser.py docs_snippets.py tutorial.py openapi.py mesh_configs.py mesh_wire.py \
    amqp_clients.py amqp_durable.py amqp_mapping.py amqp_connections.py amqp_websocket.py amqp_azure.py hostile_amqp.py \
    tls_clients.py auth_matrix.py hostile_tls.py mesh_tls.py broker_cves.py canary.py anywhere.py rolling.py \
    mesh_stop.py bridge.py bridge_faults.py bridge_loops.py bridge_reload.py"
wanted=${*:-$everything}

failed=0
count=0
for name in $wanted; do
    start=$SECONDS
    count=$((count + 1))
    log=$logs/$name.log
    case $name in
    # Only pip, in python.sh, may need a proxy: the tests ask this machine alone.
    *.py) python=$(./python.sh 2>"$log") && no_proxy='*' NO_PROXY='*' "$python" "./$name" >"$log" 2>&1 ;;
    *) no_proxy='*' NO_PROXY='*' "./$name" >"$log" 2>&1 ;;
    esac
    status=$?
    if [ $status -eq 0 ]; then
        printf '%-24s ok      %3d s  %s\n' "$name" $((SECONDS - start)) "$(tail -1 "$log")"
    else
        printf '%-24s FAILED  %3d s\n' "$name" $((SECONDS - start))
        sed 's/^/    /' "$log" | tail -20
        failed=$((failed + 1))
    fi
done
if [ $failed -gt 0 ]; then
    echo "interop: $failed of $count FAILED, logs in .build/interop-logs"
    exit 1
fi
echo "interop: $count passed"
