#!/bin/bash
# Proves that passwords and access rules hold: users made by `apus user add`, a wrong password, a subscription beyond
# the rules, a publish beyond the rules (dropped and counted), and rules that a reload changes.
set -euo pipefail
cd "$(dirname "$0")"
. ./checks.sh

pub() { mosquitto_pub -h 127.0.0.1 -p "$node_port" "$@" 2>&1; }
sub() { mosquitto_sub -h 127.0.0.1 -p "$node_port" -W 20 "$@" 2>&1; }

echo "right" | "$apus" user add --file "$scratch/users" anna >/dev/null
echo "other" | "$apus" user add --file "$scratch/users" --group readers bert >/dev/null
cat >"$scratch/node.yaml" <<YAML
node: { name: access, data: $scratch/data, lanes: 2 }
listeners:
  - { protocol: mqtt, listen: "127.0.0.1:0" }
security:
  users: $scratch/users
  anonymous: never
  access:
    - { allow: all, topics: ["a/#"], users: [anna] }
    - { allow: subscribe, topics: ["#"], groups: [readers] }
YAML
start_node "$scratch/node.yaml"

refused() { # refused WHAT COMMAND…
    local what=$1 status=0
    shift
    "$@" >"$scratch/refused" || status=$?
    [ $status -ne 0 ] || fail "$what was not refused"
    checks=$((checks + 1))
}
refused "a wrong password" pub -u anna -P wrong -t a/x -m 1
refused "an unknown user" pub -u carl -P right -t a/x -m 1
refused "a client without a user" pub -t a/x -m 1
is "refused logins" 3 "$(counter closed_notAuthenticated)"

# Everything is too much for anna, a/# is not.
is "anna's subscription to #" "All subscription requests were denied." "$(sub -u anna -P right -t '#' -C 1 || true)"
is "subscriptions refused" 1 "$(counter subscriptions_refused)"
mosquitto_sub -h 127.0.0.1 -p "$node_port" -u anna -P right -t 'a/#' -C 1 -W 30 >"$scratch/anna" &
anna=$!
mosquitto_sub -h 127.0.0.1 -p "$node_port" -u bert -P other -t '#' -C 1 -W 30 >"$scratch/bert" &
bert=$!
await 2 counter subscriptions
# MQTT 3.1.1 cannot refuse a publish: it is acknowledged, dropped and counted.
pub -u anna -P right -t b -q 1 -m secret -r
pub -u bert -P other -t a/x -q 2 -m secret
is "publishes dropped" 2 "$(counter dropped_notAuthorized)"
is "nothing retained" 0 "$(counter retained)"
pub -u anna -P right -t a/x -q 1 -m allowed
wait $anna $bert
# MQTT 5 does, and our own command says so; QoS 0 it cannot know of.
own() { # own OPTION…: what it prints, and how it ends
    local status=0
    "$apus" pub -h 127.0.0.1 -p "$node_port" -u anna -P right -t b "$@" 2>&1 || status=$?
    echo "ended with $status"
}
refusal="apus: 127.0.0.1:$node_port refused the event: Not authorized"
is "apus pub, QoS 1" "$refusal
ended with 1" "$(own -V 5 -q 1 -m secret)"
is "apus pub, QoS 2" "$refusal
ended with 1" "$(own -V 5 -q 2 -m secret)"
is "apus pub, lines" "$refusal
apus: 3 event(s) were refused
ended with 1" "$(printf '1\n2\n3\n' | own -V 5 -q 1 -l)"
is "apus pub, what nobody is told of" "ended with 0" "$(own -V 5 -q 0 -m secret)"
is "apus pub, MQTT 3.1.1" "ended with 0" "$(own -q 1 -m secret)"
is "apus pub, what is allowed" "ended with 0" "$(own -V 5 -q 1 -m well -t a/y)"
is "all publishes dropped" 9 "$(counter dropped_notAuthorized)"
is "anna hears" allowed "$(cat "$scratch/anna")"
is "bert hears" allowed "$(cat "$scratch/bert")"

# A reload: anna may publish to b, and her password is another.
echo "changed" | "$apus" user add --file "$scratch/users" anna >/dev/null
sed -i 's|topics: \["a/#"\]|topics: ["a/#", "b"]|' "$scratch/node.yaml"
kill -HUP "$node_pid"
await 1 grep -c 'configuration reloaded' "$node_log"
refused "the old password" pub -u anna -P right -t a/x -m 1
pub -u anna -P changed -t b -q 1 -m kept -r
is "after the reload" kept "$(sub -u bert -P other -t b -C 1)"
is "no further drops" 9 "$(counter dropped_notAuthorized)"

stop_node
echo "access: $checks checks passed"
