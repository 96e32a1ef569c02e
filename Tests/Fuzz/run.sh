#!/bin/bash
# Fuzzes the MQTT codec, whole conversations, what clients of each version do once they are let in, whole HTTP
# conversations, WebSocket, what HTTP clients send (JSON, CloudEvents, header fields, paths), and frames of AMQP, with
# libFuzzer and the address sanitizer; and a canary that must fail, so that the machinery itself is tested.
#
#   Tests/Fuzz/run.sh [seconds per target, default 20]
#
# Everything it makes lies in Tests/Fuzz/.work: modules, programs, corpora (kept, so that later runs go deeper), logs
# and, after a crash, the input that caused it. To see a crash again: .work/<target> .work/<target>-crash-…
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-20}
case $seconds in '' | *[!0-9]* | 0) echo "usage: $0 [seconds per target]" >&2; exit 2 ;; esac
root=$PWD
work=$root/Tests/Fuzz/.work
mkdir -p "$work"

flags=(-g -O -parse-as-library -swift-version 6 -enable-testing -sanitize=fuzzer,address -I "$work"
    -I "$root/Sources/C/COpenSSL" -I "$root/Sources/C/CProton"
    -enable-upcoming-feature ExistentialAny -enable-upcoming-feature InternalImportsByDefault
    -enable-upcoming-feature MemberImportVisibility)

say() { printf 'fuzz: %s (%d s)\n' "$*" "$SECONDS"; }

# compile LOG ARGUMENTS…
compile() {
    local log=$work/$1.log
    shift
    # In there, because the compiler leaves files of its own where it runs.
    if ! (cd "$work" && swiftc "${flags[@]}" "$@") >"$log" 2>&1; then
        grep -E 'error:' "$log" >&2 || cat "$log" >&2
        say "FAILED: cannot build, see $log"
        exit 1
    fi
}

# module NAME [FILES…]: Sources/NAME, or only these files of it, as an instrumented module
module() {
    say "compiling $1"
    local sources=("${@:2}")
    [ $# -gt 1 ] || mapfile -t sources < <(find "$root/Sources/$1" -name '*.swift' | sort)
    compile "module-$1" -whole-module-optimization -module-name "$1" -emit-module \
        -emit-module-path "$work/$1.swiftmodule" -c -o "$work/$1.o" "${sources[@]}"
}

# target NAME SOURCES…: an executable with libFuzzer's main
target() {
    say "building $1"
    local name=$1
    shift
    compile "build-$name" -whole-module-optimization -module-name "Fuzz_$name" -o "$work/$name" "$@"
}

# seed_text TARGET NAME NUMBER TEXT: a byte, then the text, in which \n and the like are what printf makes of them
seed_text() {
    mkdir -p "$work/corpus-$1"
    # shellcheck disable=SC2059 # the number is the format
    { printf "\\x$3"; printf '%b' "$4"; } >"$work/corpus-$1/seed-$2"
}

# seed TARGET NAME HEX…
seed() {
    mkdir -p "$work/corpus-$1"
    local file=$work/corpus-$1/seed-$2
    shift 2
    local digits
    digits=$(printf '%s' "$@" | tr -d ' \n')
    # shellcheck disable=SC2059 # the digits are the format
    printf "$(printf '%s' "$digits" | sed 's/../\\x&/g')" >"$file"
}

# seed_text TARGET NAME DIGIT TEXT…: a byte and texts in which \n stands for CR LF
seed_text() {
    mkdir -p "$work/corpus-$1"
    local file=$work/corpus-$1/seed-$2 digit=$3
    shift 3
    local text
    text=$(printf '%s' "$@")
    printf '%b' "\\x0$digit${text//\\n/\\r\\n}" >"$file"
}

# Packets of a client: CONNECT (clean, persistent with will, 3.1, 5), SUBSCRIBE, PUBLISH at QoS 0, 1, 2 …
connect='10 0d 0004 4d515454 04 02 0000 0001 63'
will='10 18 0004 4d515454 04 2c 0001 0001 63 0001 61 0006 010203040506'
older='10 0f 0006 4d5149736470 03 02 0000 0001 63'
newer='10 0e 0004 4d515454 05 02 0000 00 0001 63'
# MQTT 5: CONNECT with session expiry, receive maximum, aliases and a will with delay and user property; SUBSCRIBE with
# an identifier and all options; PUBLISH with expiry, alias, response topic, text; the alias alone; acknowledgements
# with reasons; DISCONNECT that keeps the will.
connect5='10 2c 0004 4d515454 05 0e 000a 0b 110000001e 210003 220002 0001 63 0c 1800000001 26 0001 6b 0001 76 0001 61
    0001 78'
subscribe5='82 0f 0001 02 0b07 0001 23 0a 0003 612f2b 2d'
publish5='30 1a 0001 61 15 0100 020000003c 230001 08 0001 72 09 0001 63 030000 78 32 0b 0000 0002 03 230001 3a3a3a
    34 07 0001 61 0001 00 78 62 04 0001 00 00'
rest5='40 04 0001 00 00 50 03 0002 97 70 02 0002 a2 09 0002 00 0001 23 0001 61 c0 00 e0 07 04 05 110000000a'
subscribe='82 06 0001 0001 23 02'
publish='30 04 0001 61 78 32 06 0001 61 0001 78 34 06 0001 61 0002 78 62 02 0002 31 04 0001 62 79'
rest='40 02 0001 50 02 0002 70 02 0002 c0 00 a2 05 0002 0001 23 e0 00'

seeds() {
    seed codec framing 00 30 ffffff7f
    seed codec connect 01 0004 4d515454 04 ee 0001 0001 63 0001 61 0001 78 0001 75 0001 70
    seed codec older 01 0006 4d5149736470 03 02 0000 0001 63
    seed codec subscribe 02 0001 0003 612f2b 01 0001 23 02
    seed codec unsubscribe 03 0001 0003 612f2b 0001 23
    seed codec text 04 61c3a4e282acf09f9880ed9fbf
    seed codec publish 05 30 04 0001 61 78
    seed codec publish5 05 "$publish5"
    seed codec acknowledgement 06 0001 97 05 1f 0002 6e6f
    seed codec filter 07 612f2b2f23 00 612f622f63
    seed codec share 07 2473686172652f672f612f23 00 61
    seed codec dollar 07 2b2f61 00 24782f61
    seed codec connect5 01 0004 4d515454 05 0e 000a 0b 110000001e 210003 220002 0001 63 0c 1800000001 26 0001 6b \
        0001 76 0001 61 0001 78
    seed codec subscribe5 02 0001 02 0b07 0001 23 0a 0003 612f2b 2d
    seed codec unsubscribe5 03 0002 00 0001 23 0001 61
    seed codec properties 08 0100 020000003c 230001 08 0001 72 09 0001 63 26 0001 6b 0001 76
    seed conversation whole 00 "$connect" "$subscribe" "$publish" "$rest"
    seed conversation bytes 02 "$will" "$subscribe" "$publish" "$rest"
    seed conversation older 06 "$older" "$subscribe" "$publish"
    seed conversation newer 00 "$newer"
    seed conversation whole5 00 "$connect5" "$subscribe5" "$publish5" "$rest5"
    seed conversation bytes5 02 "$connect5" "$subscribe5" "$publish5" "$rest5"
    # Two clients with persistent sessions subscribe, publish to each other, are cut and come back.
    seed conversation script 01 00 01 01 41 2c 20 01 01 2d 20 02 01 2c 17 01 03 616263 00 2d 27 02 02 6162 00 \
        0c 2c 02 01 04 00 01 2c 04 02 14 30 0c
    seed conversation deferred 01 1c 00 01 28 04 c000 c000 25 0c 2c 17 01 02 6161 00 24 0c
    # The same with MQTT 5: an identifier for the subscription, a publish with properties, the receive maximum.
    seed conversation script5 01 00 11 1e 01 01 51 1e 07 2c 00 01 01 02 01 2d 07 02 03 01 05 03 616263 0c 2c 02 01 00 0c
    seed established v31 00 00 "$subscribe" "$publish" "$rest"
    seed established v311 01 00 "$subscribe" "$publish" "$rest"
    seed established v5 02 00 "$subscribe5" "$publish5" "$rest5"
    seed established v5-bytes 7a 01 "$subscribe5" "$publish5" "$rest5"
    seed established v5-small fa 05 "$subscribe5" "$publish5" "$rest5"
    seed_text http get 0 'GET /now HTTP/1.1\nHost: h\n\n'
    seed_text http pipeline 2 'POST /pub HTTP/1.1\nHost: h\nContent-Length: 1\n\naPOST /alone HTTP/1.1\nHost: h\n\n' \
        'HEAD /now HTTP/1.1\nHost: h\n\nGET /later/soon HTTP/1.1\nHost: h\nConnection: close\n\n'
    seed_text http chunks 7 'POST /pub HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n3;x=y\nabc\n0\nX: y\n\nGET'
    seed_text http older 3 'GET http://h/204 HTTP/1.0\nConnection: keep-alive\n\nOPTIONS * HTTP/1.1\nHost: [::1]:1\n\n'
    seed_text http ask 1 'POST /later HTTP/1.1\nHost: h\nExpect: 100-continue\nOrigin: o\nContent-Length: 3\n\nabc'
    seed_text http stream 4 'GET /forbidden HTTP/1.1\nHost: h\n\nGET /stream HTTP/1.1\nHost: h\n\nrest'
    # "Hello" in one frame and in two, a ping between fragments, a close; a stream; text cut inside of a character.
    seed websocket echo 02 03 8185 37fa213d 7f9f4d5158 0183 37fa213d 7f9f4d 8980 00000000 8082 37fa213d 5b95 \
        8882 00000000 03e8
    seed websocket stream 00 05 8284 01020304 05060708 82fe 0080 00000000 \
        "$(printf '%0256d' 0)" 8a80 00000000
    seed websocket text 01 01 0181 00000000 ce 8081 00000000 ba 8181 00000000 ff
    seed websocket wrong 82 02 82ff 7fffffffffffffff 00000000 c180 00000000
    seed_text json text 00 '[1,-2.5e3,"x\\u00e4\\ud83e\\udeb6",{"a":{"b":[]},"c":null},true,false]'
    seed_text json event 01 '{"topic":"a","payload":"x","qos":1,"retained":true,"content_type":"t","correlation":"c",
        "reply_to":"r","message_id":"m","ttl":5,"priority":4,"partition_key":"p","properties":[["k","v"]]}'
    seed_text json bytes 01 '{"topic":"a","payload_base64":"/wA=","correlation_base64":"AA==","properties":{"k":"v"}}'
    seed_text json cloudevent 02 '{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"x","partitionkey":"p",
        "datacontenttype":"text/plain","data":"x","flag":true,"number":5,"none":null}'
    seed_text json cloudbytes 02 '{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"aGk="}'
    seed_text json lines 03 '{"topic":"a"}\r\n\n{"topic":"b","payload":"x"}'
    seed_text json array 03 '[{"specversion":"1.0","id":"1","source":"s","type":"t","topic":"x","data":{}},{}]'
    seed_text json fields 04 'Apus-Delivery-Mode: guaranteed\r\nApus-Time-To-Live: 5\r\nApus-Property-a: %C3%A4'
    seed_text json apus 04 'Content-Type: a/b\r\nApus-Partition-Key: k\r\nApus-Correlation-Id: c\r\nApus-Retain: true'
    seed_text json solace 04 'Solace-Delivery-Mode: persistent\r\nSolace-User-Property-a: b; type=c\r\nbaggage: a=b'
    seed_text json ce 04 'ce-specversion: 1.0\r\nce-id: 1\r\nce-source: s\r\nce-type: "a\\"b"\r\nce-x: %20'
    seed json properties 05 00 03 612f62 04 01 6b 03 0d0a78 02 02 ff00
    seed_text json path 06 'a/%C3%A4b//%2B?x=%2F'
    seed_text json base64 07 'Zm9vYg=='
    # Frames: open, begin, attach in both roles, transfers, flows, a disposition, detach, end, close; then bodies alone:
    # an attach with source and target, an open with everything, arrays, maps.
    seed amqpscan session 00 0000 0011 02 00 0000 00 53 10 c0 04 01 a1 01 63 \
        0000 0015 02 00 0001 00 53 11 c0 08 04 40 43 52 09 52 09 42 \
        0000 0014 02 00 0001 00 53 11 c0 07 04 40 43 52 09 52 09 \
        0000 0013 02 00 0001 00 53 12 c0 06 03 a1 01 61 43 42 0000 0014 02 00 0001 00 53 12 c0 07 03 a1 01 61 5201 41 \
        0000 001c 02 00 0001 00 53 14 c0 0a 06 43 43 a0 01 00 43 42 41 00 53 75 a0 00 \
        0000 0012 02 00 0001 00 53 14 c0 05 03 43 43 40 00
    seed amqpscan bodies 01 0009 00 00 53 10 c0 04 01 a1 01 63 000c 01 00 53 11 c0 07 04 40 43 52 09 52 09 \
        000b 01 00 53 12 c0 06 03 a1 01 61 43 42 000c 01 00 53 12 c0 07 03 a1 01 62 52 01 41 \
        0012 01 00 53 14 c0 0a 06 43 43 a0 01 00 43 42 41 43 00 53 75 000d 01 00 53 14 c0 08 03 43 43 40 00 53 75 a0 00 \
        0010 01 00 53 13 c0 0b 07 43 52 09 43 52 09 52 01 43 52 64 000d 01 00 53 15 c0 08 05 41 43 40 41 00 53 24 45 \
        0008 01 00 53 16 c0 03 02 43 41 0004 01 00 53 17 45 0004 00 00 53 18 45
    seed amqpscan open 01 0036 00 00 53 10 c0 31 0a a1 01 63 a1 01 68 70 00010000 60 00ff 70 00007530 a3 01 65 a3 01 65 \
        e0 06 02 a3 01 41 01 42 a3 01 43 c1 09 02 a3 01 6b e0 03 02 50 01 02
    seed amqpscan attach 01 0009 00 00 53 10 c0 04 01 a1 01 63 000c 01 00 53 11 c0 07 04 40 43 52 09 52 09 \
        0038 01 00 53 12 c0 33 0a a1 01 61 43 42 50 02 50 00 00 53 28 c0 10 08 a1 01 61 43 40 40 42 40 40 c1 05 02 a3 01 66 45 \
        00 53 29 c0 04 01 a1 01 61 40 42 43
    seed canary start 54
}

# run NAME: fuzzes for the seconds given
# Output goes to a file: a pipe would keep a hung fuzzer alive.
run() {
    mkdir -p "$work/corpus-$1"
    local status=0
    timeout -s KILL $((seconds + 120)) "$work/$1" -max_total_time="$seconds" -max_len=1024 -timeout=20 \
        -rss_limit_mb=2048 -use_value_profile=1 -print_final_stats=1 -artifact_prefix="$work/$1-" \
        "$work/corpus-$1" >"$work/run-$1.log" 2>&1 || status=$?
    return $status
}

module Core
module MQTT
# Of Web the protocols and the codecs: the rest of the room has its own tests, and needs embedded files.
web=$root/Sources/Web
module Web "$web"/{HTTP,WebSocket,JSON}/*.swift \
    "$web"/REST/{Batch,CloudEvents,EventHeaders,EventHeaders+Writing,FieldText,PropertyList,TopicPath}.swift
objects=("$work/Core.o" "$work/MQTT.o")
target codec "$root"/Tests/Fuzz/codec/*.swift "${objects[@]}"
shared=("$root"/Tests/Fuzz/shared/*.swift "$root"/Tests/MQTTTests/{Harness,Frames}.swift "${objects[@]}")
target conversation "$root"/Tests/Fuzz/conversation/*.swift "${shared[@]}"
target established "$root"/Tests/Fuzz/established/*.swift "${shared[@]}"
target http "$root"/Tests/Fuzz/http/*.swift "$root"/Tests/WebTests/{Harness,PlaySite,HTTPPlay}.swift \
    "$work/Core.o" "$work/Web.o" -lcrypto
target websocket "$root"/Tests/Fuzz/websocket/*.swift "$root"/Tests/WebTests/WebSocketStage.swift \
    "$work/Core.o" "$work/Web.o" -lcrypto
target json "$root"/Tests/Fuzz/json/*.swift "$work/Core.o" "$work/Web.o" -lcrypto
module AMQP
target amqpscan "$root"/Tests/Fuzz/amqpscan/*.swift "$work/Core.o" "$work/AMQP.o"
target canary "$root"/Tests/Fuzz/canary/*.swift
seeds

failed=()
summary=
for name in codec conversation established http websocket json amqpscan; do
    say "$name for $seconds s"
    if run "$name"; then
        count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/run-$name.log")
        say "$name: $count inputs, no crash"
        summary+="$name $count inputs, "
    else
        say "$name FAILED:"
        grep -aE 'Fatal error|Precondition|ERROR|SUMMARY|Test unit written|    #[0-9] ' "$work/run-$name.log" |
            head -30 || true
        say "the log is $work/run-$name.log"
        failed+=("$name")
    fi
done

say "canary for at most $seconds s"
rm -f "$work"/canary-crash-*
status=0
run canary || status=$?
if [ "$status" -eq 0 ] || ! ls "$work"/canary-crash-* >/dev/null 2>&1; then
    say "canary FAILED: its mistake was not found, so the other results mean nothing"
    failed+=(canary)
fi

if [ ${#failed[@]} -gt 0 ]; then
    say "FAILED: ${failed[*]}"
    exit 1
fi
say "passed: ${summary}canary found"
