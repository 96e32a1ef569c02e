#!/bin/bash
# Proves that mosquitto_pub and mosquitto_sub work with a node as with their own broker: every QoS, retained events,
# wills, a persistent session, shared subscriptions.
set -euo pipefail
cd "$(dirname "$0")"
. ./checks.sh

start_node "$(plain_config 2)"
members=()
pub() { mosquitto_pub -h 127.0.0.1 -p "$node_port" "$@"; }
sub() { mosquitto_sub -h 127.0.0.1 -p "$node_port" -W 30 "$@"; }
# A subscriber in the background is ready when the node has so many subscriptions.
subscribed() { await "$1" counter subscriptions; }

# QoS 0, 1 and 2 at both ends.
for sent in 0 1 2; do
    for wanted in 0 1 2; do
        sub -t "q/$sent/+" -q $wanted -C 3 -F '%t %p %q %r' >"$(out q)" &
        subscriber=$!
        subscribed 1
        for number in 1 2 3; do pub -t "q/$sent/$number" -q $sent -m "text $number"; done
        wait $subscriber
        lower=$((sent < wanted ? sent : wanted))
        # Three publishers, which need not be on one lane: each has its order, but not all together.
        is "QoS $sent to $wanted" \
            "$(for number in 1 2 3; do echo "q/$sent/$number text $number $lower 0"; done)" "$(sort "$(out q)")"
        subscribed 0
    done
done

# Many from one publisher, in order; -l publishes a line each.
for qos in 0 1 2; do
    sub -t "many" -q $qos -C 500 >"$(out many)" &
    subscriber=$!
    subscribed 1
    seq 500 | pub -t many -q $qos -l
    wait $subscriber
    is "500 at QoS $qos in order" "$(seq 500 | cksum)" "$(cksum <"$(out many)")"
    subscribed 0
done

# Retained: there for who comes later, marked; replaced; deleted.
pub -t r/1 -q 1 -m old -r
pub -t r/1 -q 1 -m new -r
pub -t r/2 -q 1 -m two -r
is "retained" "r/1 new 1
r/2 two 1" "$(sub -t 'r/#' -C 2 -F '%t %p %r' | sort)"
pub -t r/1 -q 1 -n -r
is "retained, one deleted" "r/2 two 1" "$(sub -t 'r/#' -C 1 -F '%t %p %r')"

# A will, when a client is killed, and none when it says goodbye.
sub -t 'will/#' -q 1 -C 1 -F '%t %p' >"$(out will)" &
witness=$!
subscribed 1
mosquitto_sub -h 127.0.0.1 -p "$node_port" -t x --will-topic will/polite --will-payload no >/dev/null &
polite=$!
mosquitto_sub -h 127.0.0.1 -p "$node_port" -t x --will-topic will/killed --will-payload gone --will-qos 1 >/dev/null &
killed=$!
subscribed 3
kill -TERM $polite
wait $polite 2>/dev/null || true
subscribed 2
kill -KILL $killed
wait $killed 2>/dev/null || true
wait $witness
is "will" "will/killed gone" "$(cat "$(out will)")"

# A persistent session: what was published while its client was away.
sub -i keeper -c -t 'p/#' -q 1 -E
for number in 1 2 3; do pub -t p/x -q 1 -m "$number"; done
pub -t p/x -q 0 -m direct
is "persistent session" "1
2
3" "$(sub -i keeper -c -t 'p/#' -q 1 -C 3)"

# Shared: each event to one member.
for member in 1 2 3; do
    mosquitto_sub -h 127.0.0.1 -p "$node_port" -t '$share/g/s/#' -q 1 >"$(out "share$member")" &
    members+=($!)
done
subscribed 4 # the persistent session has one
seq 300 | pub -t s/x -q 1 -l
await_lines 300 "$(out share)"[123]
sleep 0.2
is "shared: everything once" "$(seq 300 | cksum)" "$(sort -n "$(out share)"[123] | cksum)"
for member in 1 2 3; do is "shared: in turn" 100 "$(wc -l <"$(out "share$member")")"; done
kill "${members[@]}"
wait "${members[@]}" 2>/dev/null || true

stop_node
echo "mosquitto clients: $checks checks passed"
