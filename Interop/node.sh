# Sourced by checks.sh, for the scripts that start a node: `start_node CONFIG`, `stop_node`. The one place that knows the command line.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Which node to test; any build will do.
apus=${APUS:-$root/.build/release/apus}
node_pid=
node_port=
node_admin=
node_log=

# start_node CONFIG: starts a node and waits for its ready line; sets node_pid, node_port, node_admin and node_log.
start_node() {
    [ -x "$apus" ] || { echo "there is no $apus: make node" >&2; return 1; }
    node_log=${1%.yaml}.log
    # There before the node writes its first line, which may take a moment.
    : >"$node_log"
    "$apus" run --config "$1" --admin 127.0.0.1:0 --log-format json 2>"$node_log" &
    node_pid=$!
    local wait
    for wait in $(seq 600); do
        node_port=$(sed -n 's/.*"event":"ready".*"address":"[^"]*:\([0-9]*\)".*/\1/p' "$node_log")
        # shellcheck disable=SC2034 # for the scripts that source this
        node_admin=$(sed -n 's/.*"event":"ready".*"admin":"\([^"]*\)".*/\1/p' "$node_log")
        [ -z "$node_port" ] || return 0
        kill -0 "$node_pid" 2>/dev/null || break
        sleep 0.1
    done
    echo "the node did not start (waited $wait tenths of a second):" >&2
    cat "$node_log" >&2
    return 1
}

# stop_node: ends it and says whether it ended well.
stop_node() {
    [ -n "$node_pid" ] || return 0
    kill "$node_pid" 2>/dev/null || true
    local status=0
    wait "$node_pid" || status=$?
    node_pid=
    [ "$status" -eq 0 ] || { echo "the node ended with $status" >&2; tail -5 "$node_log" >&2; return 1; }
}

# counters: asks the node for its counters and prints the newest record.
counters() {
    local before
    before=$(grep -c '"event":"counters"' "$node_log" || true)
    kill -USR1 "$node_pid"
    for _ in $(seq 300); do
        [ "$(grep -c '"event":"counters"' "$node_log" || true)" -le "$before" ] || break
        sleep 0.1
    done
    grep '"event":"counters"' "$node_log" | tail -1
}

# A directory of its own for each script, removed at the end; the node in it is ended.
scratch=$(mktemp -d)
cleanup() {
    [ -z "$node_pid" ] || kill -KILL "$node_pid" 2>/dev/null || true
    # shellcheck disable=SC2046 # each word is a process
    kill $(jobs -p) 2>/dev/null || true
    rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# plain_config LANES: a configuration without security; prints its path.
plain_config() {
    cat >"$scratch/node.yaml" <<YAML
node: { name: interop, data: $scratch/data, lanes: $1 }
listeners:
  - { protocol: mqtt, listen: "127.0.0.1:0" }
YAML
    echo "$scratch/node.yaml"
}
