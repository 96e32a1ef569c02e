#!/bin/bash
# What a node tells about itself, read by other people's tools: the metrics by Prometheus' own checker, the topics under
# $SYS by mosquitto_sub, and a client's packets in the log.
set -euo pipefail
cd "$(dirname "$0")"
. ./checks.sh

pub() { mosquitto_pub -h 127.0.0.1 -p "$node_port" "$@"; }
sub() { mosquitto_sub -h 127.0.0.1 -p "$node_port" "$@"; }
metrics() { curl -sS "http://$node_admin/metrics"; }
metric() { metrics | grep -v '^#' | grep -F "$1 " | sed 's/.* //'; }

cat >"$scratch/node.yaml" <<YAML
node: { name: metrics, data: $scratch/data, lanes: 2 }
listeners:
  - { protocol: mqtt, listen: "127.0.0.1:0" }
mqtt: { sys_interval: 1 }
YAML
start_node "$scratch/node.yaml"

# Metrics, before and after something has happened.
check() { metrics | promtool check metrics; }
is "metrics of a new node" "" "$(check 2>&1)"
is "rules" 0 "$(promtool check rules ../docs/grafana/alerts.yaml >/dev/null; echo $?)"
is "rules that fire" 0 "$(promtool test rules alerts_test.yaml >&2; echo $?)"
sub -i traced -t 'work/#' -q 1 -C 3 >"$scratch/out" &
subscriber=$!
await 1 metric 'apus_subscriptions'
is "trace on" 204 "$(curl -sS -o /dev/null -w '%{http_code}' -X PUT "http://$node_admin/v1/clients/traced/trace")"
for number in 1 2 3; do pub -t "work/$number" -q 1 -m "secret"; done
wait "$subscriber"
await 3 metric 'apus_events_sent_total{protocol="mqtt",qos="1"}'
is "received" 3 "$(metric 'apus_events_received_total{protocol="mqtt",qos="1"}')"
await 4 metric 'apus_connections_closed_total{reason="client_disconnected"}'
await 3 metric 'apus_delivery_latency_seconds_count'
checks=$((checks + 2))
is "metrics of one that worked" "" "$(check 2>&1)"

# The packets of the traced client are in the log, its payloads are not.
trace=$(grep '"component":"mqtt.trace"' "$node_log")
has "trace" 'PUBLISH qos=1 id=1 topic=\"work/1\"' "$trace"
has "trace" 'PUBACK id=1' "$trace"
has "trace" '"client":"traced"' "$trace"
[[ "$trace" != *secret* ]] || fail "a payload in the trace"
curl -sS -X DELETE "http://$node_admin/v1/clients/traced/trace" >/dev/null

# $SYS as mosquitto's users know it.
has "version" "apus version " "$(sub -t '$SYS/broker/version' -C 1 -W 20)"
# Two, as a live one may be first.
is "retained" 1 "$(sub -t '$SYS/broker/uptime' -C 2 -W 20 -F '%r' | sort | tail -1)"
has "goes on" " seconds" "$(sub -t '$SYS/broker/uptime' -C 3 -W 30 | tail -1)"
is "average" 1 "$(sub -t '$SYS/broker/load/messages/received/1min' -C 1 -W 20 | grep -c '^[0-9]*\.[0-9][0-9]$')"
is "a name with a space" 0 "$(sub -t '$SYS/broker/retained messages/count' -C 1 -W 20)"
is "published" 3 "$(sub -t '$SYS/broker/publish/messages/received' -C 1 -W 20)"
pub -t '$SYS/broker/version' -r -m forged
has "cannot be forged" "apus version " "$(sub -t '$SYS/broker/version' -C 1 -W 20)"
is "nothing for #" "" "$(sub -t '#' -W 2 2>/dev/null || true)"
is "not a client's" 0 "$(metric apus_retained_events)"
stop_node
echo "$checks checks"
