#!/bin/bash
# The management interface with other people's tools: curl asks, mosquitto's clients are asked about. Health and
# readiness up to the end of a drain, clients listed, shown and ended, retained events listed, read and removed; then
# the same by the node's own commands, with users and over TLS; and `apus check` on broken certificates.
set -euo pipefail
cd "$(dirname "$0")"
. ./checks.sh

pub() { mosquitto_pub -h 127.0.0.1 -p "$node_port" "$@"; }
ask() { curl -sS --path-as-is "http://$node_admin$1" "${@:2}"; }
status() { ask "$1" -o "$scratch/body" -w '%{http_code}' "${@:2}"; }
manage() { "$apus" "$@" --admin "$node_admin"; }
count() { ask /v1/node | sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p"; }

cat >"$scratch/node.yaml" <<YAML
node: { name: admin, data: $scratch/data, lanes: 2, drain_seconds: 20 }
listeners:
  - { protocol: mqtt, listen: "127.0.0.1:0" }
YAML
start_node "$scratch/node.yaml"
is "alive" 200 "$(status /healthz)"
is "ready" 200 "$(status /readyz)"
is "metrics" 200 "$(status /metrics)"

# Clients: one with an id that a URL must escape, one that stays away.
for id in 'pump/1 ä' plain; do
    mosquitto_sub -h 127.0.0.1 -p "$node_port" -i "$id" -c -q 1 -t 'plant/#' -k 20 >"$scratch/out" 2>"$scratch/err" &
done
await 2 count subscriptions
has "the list" '"id":"pump/1 ä"' "$(ask /v1/clients)"
has "one page" '"next"' "$(ask '/v1/clients?limit=1')"
is "by prefix" 1 "$(ask '/v1/clients?prefix=pump' | grep -o '"id"' | wc -l)"
has "one client" '"filter":"plant/#"' "$(ask /v1/clients/pump%2F1%20%C3%A4)"
is "nobody" 404 "$(status /v1/clients/nobody)"
has "as a problem" '"title":"Not Found"' "$(cat "$scratch/body")"
is "foreign page" 403 "$(status /v1/clients/plain -X DELETE -H 'Origin: http://evil.example')"
is "foreign name" 421 "$(status /v1/clients -H 'Host: evil.example')"

has "the table" 'pump/1 ä' "$(manage clients list)"
has "a filter that is none" "'+' and '#' stand alone in a level" "$(manage retained list 'a/#/b' 2>&1 || true)"
has "show" 'plant/#  QoS 1' "$(manage clients show 'pump/1 ä')"
is "json" 2 "$(manage clients list --json | grep -c '"id"')"
manage clients trace plain on >/dev/null
manage clients trace plain off >/dev/null
is "kick" 'ended pump/1 ä' "$(manage clients kick 'pump/1 ä')"
is "kicked" 1 "$(counter closed_administrative)"
is "end of the session" 204 "$(status '/v1/clients/plain?session=true' -X DELETE)"
# mosquitto_sub comes back after a second, to a new session.
await 2 count sessions

# A session whose client is away has no connection to end.
mosquitto_sub -h 127.0.0.1 -p "$node_port" -i away -c -q 1 -t plant/x -E
has "kick without a connection" 'away is not connected; --session ends its session' \
    "$(manage clients kick away 2>&1 || true)"
is "kick with the session" 'ended away' "$(manage clients kick away --session)"
await 2 count sessions

# Retained events.
for topic in plant/a/state plant/b/state '/odd//ü'; do pub -t "$topic" -q 1 -r -m "value of $topic"; done
is "all topics" 3 "$(ask /v1/retained | grep -o '"topic"' | wc -l)"
is "by filter" 2 "$(ask '/v1/retained?filter=plant/%23' | grep -o '"topic"' | wc -l)"
is "one payload" 'value of /odd//ü' "$(ask /v1/retained//odd//%C3%BC)"
is "the command" 'value of /odd//ü' "$(manage retained get '/odd//ü')"
is "remove one" 204 "$(status /v1/retained/plant/a/state -X DELETE)"
is "no longer there" 404 "$(status /v1/retained/plant/a/state)"
has "listed" 'plant/b/state' "$(manage retained list 'plant/#')"
is "remove by filter" 'removed 2' "$(manage retained delete --filter '#')"
is "nothing left" 0 "$(count retained)"
has "status" 'admin is ready' "$(manage status)"

# What goes wrong says how to go on.
code=0
message=$("$apus" status --admin 127.0.0.1:1 2>&1) || code=$?
is "nobody there" 1 "$code"
has "nobody there" "apus run" "$message"
code=0
"$apus" clients kick --admin "$node_admin" 2>/dev/null || code=$?
is "usage" 2 "$code"
code=0
message=$("$apus" run --mqtt 127.0.0.1:0 --data "$scratch/other" --admin "$node_admin" 2>&1) || code=$?
is "a taken port" 1 "$code"
has "a taken port" "admin.listen" "$message"

# A drain that lasts: a client that does not read has much to be sent. The probes see it.
sleeper() { exec 7<>"/dev/tcp/127.0.0.1/$node_port"; }
sleeper
printf '\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01z' >&7
printf '\x82\x08\x00\x01\x00\x03big\x00' >&7
await 3 count subscriptions
head -c 900000 /dev/zero >"$scratch/big"
for _ in $(seq 8); do pub -t big -f "$scratch/big" -q 1; done
kill "$node_pid"
await 503 status /readyz
is "alive in a drain" 200 "$(status /healthz)"
has "status in a drain" draining "$(manage status || true)"
exec 7<&-
exec 7>&-
stop_node

# With users: nobody without a password.
echo "right" | "$apus" user add --file "$scratch/users" anna >/dev/null
echo "other" | "$apus" user add --file "$scratch/users" bert >/dev/null
cat >"$scratch/users.yaml" <<YAML
node: { name: admin, data: $scratch/data }
listeners:
  - { protocol: mqtt, listen: "127.0.0.1:0" }
security: { users: $scratch/users }
admin: { users: [anna] }
YAML
start_node "$scratch/users.yaml"
is "without a password" 401 "$(status /v1/node)"
is "the wrong one" 401 "$(status /v1/node -u anna:wrong)"
is "the right one" 200 "$(status /v1/node -u anna:right)"
is "another user" 403 "$(status /v1/node -u bert:other)"
is "health is open" 200 "$(status /healthz)"
has "the command" 'admin is ready' "$(APUS_ADMIN_PASSWORD=right manage status --user anna)"
has "the command without" '--user' "$(manage status 2>&1 || true)"
grep -q right "$node_log" && fail "a password is in the log"
stop_node

# Over TLS: the commands verify who answers, and show a certificate where one is asked for.
certs() { "$apus" certs "$1" --dir "$scratch/$2" "${@:3}" >/dev/null; }
certs init pki
certs init strange
certs server pki web --host localhost
certs client pki anna
cat >"$scratch/tls.yaml" <<YAML
node: { name: admin, data: $scratch/data }
tls:
  main: { certificate: $scratch/pki/web.crt, key: $scratch/pki/web.key, client_ca: $scratch/pki/ca.crt,
          require_client_certificate: true, user: "\${cert.cn}", crl: $scratch/pki/ca.crl }
listeners:
  - { protocol: mqtt, listen: "127.0.0.1:0", tls: main }
security: { users: $scratch/users }
admin: { users: [anna], tls: main }
YAML
start_node "$scratch/tls.yaml"
https() { "$apus" status --admin "https://${1:-localhost}:${node_admin##*:}" "${@:2}" 2>&1 || true; }
own=(--cert "$scratch/pki/anna.crt" --key "$scratch/pki/anna.key")
has "by certificate" 'admin is ready' "$(https localhost --ca "$scratch/pki/ca.crt" "${own[@]}")"
has "no certificate" '--cert and --key' "$(https localhost --ca "$scratch/pki/ca.crt")"
has "another authority" 'from another authority' "$(https localhost --ca "$scratch/strange/ca.crt" "${own[@]}")"
has "no authority" '--ca names' "$(https localhost "${own[@]}")"
has "another name" 'stands in its certificate' "$(https 127.0.0.1 --ca "$scratch/pki/ca.crt" "${own[@]}")"
has "without TLS" 'With admin.tls' "$(manage status 2>&1 || true)"
small() { "$apus" pub -h "$1" -p "$node_port" -t a -m b -q 1 "${@:2}" 2>&1 && echo sent || true; }
is "an event over TLS" sent "$(small localhost --cafile "$scratch/pki/ca.crt" "${own[@]}")"
has "to another name" 'another name than --host' "$(small 127.0.0.1 --cafile "$scratch/pki/ca.crt" "${own[@]}")"
is "whatever the name" sent "$(small 127.0.0.1 --insecure --cafile "$scratch/pki/ca.crt" "${own[@]}")"
has "not its authority" 'from no authority' "$(small localhost --cafile "$scratch/strange/ca.crt" "${own[@]}")"
has "nothing shown" '--cert and --key' "$(small localhost --cafile "$scratch/pki/ca.crt")"
has "no TLS at all" '--cafile' "$(small localhost)"
stop_node

# What would keep a node from starting is said before.
look() { "$apus" check "$scratch/tls.yaml" 2>&1 && echo "ended with 0" || echo "ended with $?"; }
has "good files" 'ended with 0' "$(look)"
broken() { # broken FILE WHAT: with another file in its place
    cp "$scratch/pki/$1" "$scratch/kept"
    cat >"$scratch/pki/$1"
    has "$2: it is said" "pki/$1" "$(look)"
    has "$2: the end" 'ended with 78' "$(look)"
    cp "$scratch/kept" "$scratch/pki/$1"
}
broken web.key "another key" <"$scratch/pki/anna.key"
broken web.crt "no certificate" </dev/null
broken ca.crt "no authority" <"$scratch/pki/anna.key"
broken ca.crl "no list" <"$scratch/pki/ca.crt"
rm "$scratch/pki/web.crt" "$scratch/users"
has "no file" 'web.crt: No such file' "$(look)"
openssl req -new -key "$scratch/pki/web.key" -subj /CN=old -out "$scratch/request"
openssl x509 -req -in "$scratch/request" -signkey "$scratch/pki/web.key" -days -1 \
    -out "$scratch/pki/web.crt" 2>"$scratch/err"
has "expired" 'has expired' "$(look)"
has "expired is no mistake" 'ended with 0' "$(look)"
has "no users yet" 'apus user add' "$(look)"
echo "admin: $checks checks passed"
