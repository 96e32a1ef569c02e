#!/bin/bash
# A mesh on this machine: three nodes, three protocols, one node killed and started again while events flow. Says what
# it does, ends with 0 when everything healed and nothing was lost, and leaves nothing behind. Half a minute.
#
#   scripts/demo.sh
#
# APUS names the program (default .build/release/apus). The third protocol is AMQP if Proton's Python client is there
# (apt-get install python3-qpid-proton), else WebSocket; DEMO_THIRD=websocket does without Proton.
set -euo pipefail
cd "$(dirname "$0")/.."
apus=${APUS:-.build/release/apus}
apus=$(realpath "$apus")
client=$PWD/scripts/demo-client.py
python=/usr/bin/python3
[ -x "$python" ] || python=$(command -v python3)

if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
say() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
fail() {
    printf '\nThe demo failed: %s\n' "$*" >&2
    for log in "$work"/*.log; do
        printf -- '--- %s\n' "$log" >&2
        tail -5 "$log" >&2
    done
    exit 1
}

work=$(mktemp -d)
started=()
cleanup() {
    status=$?
    trap - EXIT INT TERM
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
    exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Sets `process` to what was started.
start() {
    local output=$1
    shift
    # shellcheck disable=SC2094 # they are two files
    "$@" >"$output" 2>"$work/$(basename "$output").log" &
    process=$!
    started+=("$process")
}

# until_true SECONDS WHAT COMMAND…
until_true() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $deadline ] || fail "$what"
        sleep 0.1
    done
}

# Ports that nobody has: 1 to 3 behind the base for MQTT, 11 to 13 for HTTP, and so on.
is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
base=21880
for port in 1 2 3 11 12 13 21 22 23 31 32 33 41 42 43; do
    while ! is_free $((base + port)); do base=$((base + 100)); done
done
names=(none berlin hamburg munich)
mqtt() { echo $((base + $1)); }
http() { echo $((base + 10 + $1)); }
amqp() { echo $((base + 20 + $1)); }
admin() { echo "127.0.0.1:$((base + 30 + $1))"; }

configure() {
    cat >"$work/${names[$1]}.yaml" <<YAML
node: { name: ${names[$1]}, data: $work/data-${names[$1]} }
listeners:
  - { protocol: mqtt, listen: 127.0.0.1:$(mqtt "$1") }
  - { protocol: http, listen: 127.0.0.1:$(http "$1") }
  - { protocol: amqp, listen: 127.0.0.1:$(amqp "$1") }
admin: { listen: $(admin "$1") }
mesh:
  id: demo
  listen: 127.0.0.1:$((base + 40 + $1))
  join: configured
  links: $2
YAML
}
to() { echo "{ to: 127.0.0.1:$((base + 40 + $1)), cost: $2 }"; }
configure 1 "[$(to 2 10), $(to 3 50)]"
configure 2 "[]"
configure 3 "[$(to 2 10)]"

declare -A pids
run_node() {
    start "$work/${names[$1]}.out" "$apus" run --config "$work/${names[$1]}.yaml"
    pids[$1]=$process
}

# all_reach FROM COUNT: the node sees that many nodes it can reach, and no others that it can.
all_reach() {
    "$apus" topology --json --admin "$(admin "$1")" 2>/dev/null | "$python" -c '
import json, sys
text = sys.stdin.read()
nodes = json.loads(text)["nodes"] if text else []
sys.exit(sum(node["reachable"] for node in nodes) != int(sys.argv[1]))' "$2"
}
goes_by() { "$apus" explain demo/count --admin "$(admin 1)" 2>/dev/null | grep -q "^node munich: by way of $1$"; }
links_wanted() { "$apus" explain "$2" --admin "$(admin "$1")" 2>/dev/null | grep -q "^node $3: by"; }

if command -v mosquitto_pub >/dev/null; then
    publish=(mosquitto_pub) subscribe=(mosquitto_sub)
else
    publish=("$apus" pub) subscribe=("$apus" sub)
fi
third=${DEMO_THIRD:-websocket}
if [ -z "${DEMO_THIRD:-}" ] && "$python" -c 'import proton' 2>/dev/null; then third=amqp; fi
third_port() { if [ "$third" = amqp ]; then amqp 3; else http 3; fi; }

listen_at_hamburg() {
    start "$work/hamburg.events" curl -sN "http://127.0.0.1:$(http 2)/events?filter=demo/hello"
    until_true 60 "berlin does not learn what hamburg wants" links_wanted 1 demo/hello hamburg
}

# Each of the three publishes; each of them must hear all three.
everybody_says_hello() {
    local round=$1
    "${publish[@]}" -h 127.0.0.1 -p "$(mqtt 1)" -q 1 -t demo/hello -m "mqtt-at-berlin-$round"
    curl -sf -o "$work/answer" -H 'Content-Type: text/plain' -H 'Apus-Delivery-Mode: guaranteed' \
        -d "rest-at-hamburg-$round" "http://127.0.0.1:$(http 2)/TOPIC/demo/hello" || fail "hamburg does not take a POST"
    "$python" "$client" send "$third" "$(third_port)" demo/hello "$third-at-munich-$round"
    for event in "mqtt-at-berlin-$round" "rest-at-hamburg-$round" "$third-at-munich-$round"; do
        for place in berlin hamburg munich; do
            until_true 60 "$place does not hear $event" grep -q "$event" "$work/$place.events"
        done
        echo "$event: heard in berlin by MQTT, in hamburg by Server-Sent Events, in munich by $third"
    done
}

say "Three nodes: berlin and munich have a cheap link to hamburg each, and a dear one to each other"
for number in 1 2 3; do run_node $number; done
for number in 1 2 3; do until_true 60 "${names[$number]} does not reach three nodes" all_reach $number 3; done
"$apus" topology --admin "$(admin 1)"

say "Three protocols: MQTT at berlin, REST and Server-Sent Events at hamburg, $third at munich; one topic"
start "$work/berlin.events" "${subscribe[@]}" -h 127.0.0.1 -p "$(mqtt 1)" -q 1 -t demo/hello
start "$work/munich.events" "$python" "$client" listen "$third" "$(third_port)" 'demo/+'
listen_at_hamburg
until_true 60 "hamburg does not learn what munich wants" links_wanted 2 demo/hello munich
until_true 60 "hamburg does not learn what berlin wants" links_wanted 2 demo/hello berlin
everybody_says_hello first

say "Events from berlin to munich go by way of hamburg, where they are forwarded without being looked at"
until_true 60 "events from berlin to munich do not go by way of hamburg" goes_by hamburg
"$apus" explain demo/count --admin "$(admin 1)"

say "Twenty numbered events a second from berlin to munich. In two seconds hamburg is killed (kill -9)"
count=200
(for ((number = 1; number <= count; number++)); do echo $number; sleep 0.05; done) |
    "${publish[@]}" -h 127.0.0.1 -p "$(mqtt 1)" -q 1 -t demo/count -l 2>"$work/publisher.log" &
publisher=$!
started+=("$publisher")
sleep 2
kill -9 "${pids[2]}"
wait "${pids[2]}" 2>/dev/null || true
echo "killed"
until_true 60 "berlin does not notice" all_reach 1 2
until_true 60 "events do not find the other way" goes_by munich
"$apus" topology --admin "$(admin 1)"
echo
"$apus" explain demo/count --admin "$(admin 1)"

say "hamburg is started again"
run_node 2
for number in 1 2 3; do until_true 60 "${names[$number]} does not reach three nodes again" all_reach $number 3; done
until_true 60 "events do not take the cheap way again" goes_by hamburg
"$apus" topology --admin "$(admin 1)"

say "What became of the numbered events, published by MQTT at QoS 1 and received by $third"
wait "$publisher" || fail "the publisher failed"
last_number_is_there() { grep -q "demo/count $count\$" "$work/munich.events"; }
until_true 60 "munich has not heard event $count" last_number_is_there
"$python" "$client" judge "$work/munich.events" $count || fail "not every event arrived once and in order"

say "All three again"
listen_at_hamburg
until_true 60 "hamburg does not learn what munich wants" links_wanted 2 demo/hello munich
until_true 60 "hamburg does not learn what berlin wants" links_wanted 2 demo/hello berlin
everybody_says_hello second

printf '\nHealed, and nothing was lost. %d seconds. docs/mesh.md says how to make your own.\n' $SECONDS
