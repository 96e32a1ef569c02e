#!/bin/bash
# Proves that mosquitto_pub, mosquitto_sub and mosquitto_rr work with a node over MQTT 5: properties, expiry of events
# and sessions, delayed wills, aliases, subscription identifiers, shared subscriptions, and mixes with 3.1.1 and 3.1.
# They have no option for no-local and, in the versions of today's distributions, none for retain handling: paho5.py.
set -euo pipefail
cd "$(dirname "$0")"
. ./checks.sh

start_node "$(plain_config 2)"
members=()
pub() { mosquitto_pub -h 127.0.0.1 -p "$node_port" -V 5 "$@"; }
sub() { mosquitto_sub -h 127.0.0.1 -p "$node_port" -V 5 -W 30 "$@"; }
subscribed() { await "$1" counter subscriptions; }

# Every property of an event, at every QoS: user properties keep their order, duplicates and bytes.
properties=(
    -D publish user-property b 1 -D publish user-property a 2 -D publish user-property b 1
    -D publish user-property "clé" "日本 🐝" -D publish user-property empty ""
    -D publish content-type "text/plain; charset=utf-8" -D publish response-topic "reply/ü"
    -D publish correlation-data "42 of 43" -D publish payload-format-indicator 1
)
for qos in 0 1 2; do
    sub -t 'prop/#' -q $qos -C 1 -F '%t|%p|%q|%P|%C|%R|%D|%F|%E' >"$(out prop)" &
    subscriber=$!
    subscribed 1
    pub -t prop/x -q $qos -m "grüezi" "${properties[@]}"
    wait $subscriber || fail "no event with properties at QoS $qos"
    is "properties at QoS $qos" \
        "prop/x|grüezi|$qos|b:1 a:2 b:1 clé:日本 🐝 empty:|text/plain; charset=utf-8|reply/ü|42 of 43|1|" \
        "$(cat "$(out prop)")"
    subscribed 0
done
pub -t prop/kept -r -q 1 -m kept "${properties[@]}"
is "properties of a retained event" \
    "kept|1|b:1 a:2 b:1 clé:日本 🐝 empty:|text/plain; charset=utf-8|reply/ü|42 of 43|1" \
    "$(sub -t 'prop/#' -q 1 -C 1 -F '%p|%r|%P|%C|%R|%D|%F')"

# Request and response with mosquitto_rr: the answer goes where the request says, with its correlation data.
sub -t 'request/#' -q 1 -C 1 -F '%R|%D|%p' >"$(out request)" &
responder=$!
subscribed 1
mosquitto_rr -h 127.0.0.1 -p "$node_port" -W 30 -q 1 -t request/x -e response/x -m ask \
    -D publish correlation-data number-7 -F '%t|%p|%D' >"$(out response)" &
requester=$!
wait $responder || fail "no request"
is "request" "response/x|number-7|ask" "$(cat "$(out request)")"
pub -q 1 -t "$(cut -d'|' -f1 "$(out request)")" -m answer \
    -D publish correlation-data "$(cut -d'|' -f2 "$(out request)")"
wait $requester || fail "no response"
is "response" "response/x|answer|number-7" "$(cat "$(out response)")"
subscribed 0

# Retained events count down and go; so do those that wait for an absent session.
sub -i waiting -c -x 60 -t 'expiry/#' -q 2 -E
pub -t expiry/long -r -q 1 -m long -D publish message-expiry-interval 60
pub -t expiry/short -r -q 2 -m short -D publish message-expiry-interval 1
pub -t expiry/never -r -q 1 -m never
left=$(sub -t expiry/long -C 1 -F %E)
[ "$left" -ge 40 ] && [ "$left" -le 60 ] || fail "before it expires: $left of 60 s"
checks=$((checks + 1))
await 3 counter retained # never, long, and prop/kept: short is gone
left=$(sub -t expiry/long -C 1 -F %E)
[ "$left" -ge 40 ] && [ "$left" -lt 60 ] || fail "message expiry does not count down: $left of 60 s"
is "retained, one expired" "expiry/long
expiry/never" "$(sub -t 'expiry/#' -C 2 -F %t | sort)"
sub -i waiting -c -x 0 -t 'expiry/#' -q 2 -C 2 -F '%t %E %r' >"$(out waiting)" || fail "nothing waited"
is "what waited, one expired" "expiry/long
expiry/never" "$(sort "$(out waiting)" | cut -d' ' -f1)"
left=$(sed -n 's/expiry.long \([0-9]*\) 0/\1/p' "$(out waiting)")
[ "${left:-60}" -lt 60 ] || fail "message expiry does not count down for what waits: '$(cat "$(out waiting)")'"

# Session expiry: kept with what was published at QoS 1 and 2, and ended after its interval.
await 0 counter sessions
sub -i keeper -c -x 60 -t 'session/#' -q 2 -E
await 1 counter sessions
for number in $(seq 20); do pub -t session/x -q $((1 + number % 2)) -m "$number"; done
pub -t session/x -q 0 -m direct
pub -t elsewhere -q 1 -m "" # answered after the direct event was routed
is "a session's events" "$(seq 20)" "$(sub -i keeper -c -x 1 -t 'session/#' -q 2 -C 20 | sort -n)"
await 0 counter sessions
checks=$((checks + 1))
sub -i keeper -c -t 'session/#' -q 2 -C 1 >"$(out session)" &
subscriber=$!
subscribed 1
pub -t session/x -q 1 -m fresh
wait $subscriber
is "after the session has expired" fresh "$(cat "$(out session)")"
# mosquitto's -c without -x asks for a session that never expires: end it.
sub -i keeper -x 0 -t 'session/#' -E
await 0 counter sessions

# Wills: none after a goodbye; at once after DISCONNECT 0x04, which is what mosquitto_sub sends when it is terminated;
# after the delay, with its properties; none when its client is back before.
will() { # will NAME DELAY [OPTION…]: a client with a will, in the background; sets `mortal`
    mosquitto_sub -h 127.0.0.1 -p "$node_port" -V 5 -i "$1" -t "mortal/$1" -x 60 -c -q 1 \
        --will-topic "will/$1" --will-payload "$1" --will-qos 1 -D will will-delay-interval "$2" \
        -D will user-property of "$1" -D will content-type last/words "${@:3}" >/dev/null &
    mortal=$!
}
end() { # end SIGNAL PROCESS
    kill "-$1" "$2"
    wait "$2" 2>/dev/null || true
}
sub -t 'will/#' -q 1 -C 2 -W 60 -F '%t %p %q %P %C' >"$(out will)" &
witness=$!
subscribed 1
will polite 0 -E
wait $mortal
will with 0
with=$mortal
will back 8
back=$mortal
will late 10
late=$mortal
subscribed 5
end TERM "$with"
await 3 counter connections
end KILL "$back"
killed=$(date +%s%N)
end KILL "$late"
will back 60
await 2 counter connections
wait $witness || fail "not two wills: $(cat "$(out will)")"
passed=$((($(date +%s%N) - killed) / 1000000))
is "wills" "will/with with 1 of:with last/words
will/late late 1 of:late last/words" "$(cat "$(out will)")"
[ $passed -ge 9900 ] || fail "a will with a delay of 10 s after $passed ms"
kill -KILL "$mortal"
wait "$mortal" 2>/dev/null || true
for name in back late polite with; do sub -i $name -x 0 -t x -E; done
await 0 counter sessions

# A topic alias: mosquitto_pub names the topic once, then only the alias.
for qos in 0 1 2; do
    sub -t 'alias/#' -q $qos -C 100 -F '%t %p' >"$(out alias)" &
    subscriber=$!
    subscribed 1
    seq 100 | pub -t "alias/a/long/topic" -q $qos -l -D publish topic-alias 7
    wait $subscriber || fail "not 100 events by alias at QoS $qos: $(tail -1 "$(out alias)")"
    is "100 by alias at QoS $qos" "$(seq 100 | sed 's/^/alias\/a\/long\/topic /' | cksum)" \
        "$(cksum <"$(out alias)")"
    subscribed 0
done

# Subscription identifiers up to the largest. Not with overlapping filters: this client ends a connection on an event
# with two identifiers, which are allowed ([MQTT-3.3.4-4]); paho5.py does that.
for identifier in 1 268435455; do
    sub -t 'id/#' -t 'other' -q 1 -C 2 -F '%t %p %S' -D subscribe subscription-identifier $identifier >"$(out id)" &
    subscriber=$!
    subscribed 2
    pub -t id/x -q 1 -m first
    pub -t other -q 1 -m second
    wait $subscriber || fail "not two events with the identifier $identifier"
    is "subscription identifier $identifier" "id/x first $identifier
other second $identifier" "$(cat "$(out id)")"
    subscribed 0
done

# Overlapping filters get one copy.
sub -t 'over/#' -t 'over/+' -q 1 -C 2 -F '%t %p' >"$(out over)" &
subscriber=$!
subscribed 2
pub -t over/x -q 1 -m first
pub -t over/x -q 1 -m second
wait $subscriber
is "overlapping filters" "over/x first
over/x second" "$(cat "$(out over)")"
subscribed 0

# Retain as published: the flag of a live event; without it live events have none.
sub -t 'live/#' --retain-as-published -C 2 -F '%p %r' >"$(out as-published)" &
as_published=$!
sub -t 'live/#' -C 2 -F '%p %r' >"$(out plain)" &
plain=$!
subscribed 2
pub -t live/x -q 1 -r -m kept
pub -t live/x -q 1 -m passing
wait $as_published $plain
is "retain as published" "kept 1
passing 0" "$(cat "$(out as-published)")"
is "retain not as published" "kept 0
passing 0" "$(cat "$(out plain)")"
subscribed 0

# Every version to every other, at every QoS: properties only from 5 to 5, everything else the same.
for from in 31 311 5; do
    for to in 31 311 5; do
        sub -V $to -t 'mix/#' -q 2 -C 3 -F '%t %p %q %P' >"$(out mix)" &
        subscriber=$!
        subscribed 1
        tag=()
        [ $from != 5 ] || tag=(-D publish user-property from "$from")
        for qos in 0 1 2; do pub -V $from -t "mix/$qos" -q $qos -m "$from to $to" "${tag[@]}"; done
        wait $subscriber || fail "$from to $to: $(cat "$(out mix)")"
        property=
        [ $from != 5 ] || [ $to != 5 ] || property=from:5
        # Sorted: an event of QoS 2 and one of QoS 0 may pass each other in the client.
        is "$from to $to" "$(for qos in 0 1 2; do echo "mix/$qos $from to $to $qos $property"; done)" \
            "$(sort "$(out mix)")"
        subscribed 0
    done
done

# Shared by three, of two versions: each event to one member, in turn.
for member in 1 2 3; do
    version=5
    [ $member != 3 ] || version=311
    mosquitto_sub -h 127.0.0.1 -p "$node_port" -V $version -t '$share/g/s/#' -q 1 >"$(out "share$member")" &
    members+=($!)
done
subscribed 3
seq 300 | pub -t s/x -q 1 -l
await_lines 300 "$(out share)"[123]
for member in "${members[@]}"; do end TERM "$member"; done
is "shared: everything once" "$(seq 300 | cksum)" "$(sort -n "$(out share)"[123] | cksum)"
for member in 1 2 3; do is "shared: in turn" 100 "$(wc -l <"$(out "share$member")")"; done

stop_node
echo "mosquitto clients with MQTT 5: $checks checks passed"
