#!/bin/bash
# Fuzzes the MQTT codec, whole conversations, what clients of each version do once they are let in, whole HTTP
# conversations, WebSocket, what HTTP clients send (JSON, CloudEvents, header fields, paths), frames, messages and whole
# conversations of AMQP, what a neighbour in the mesh says and the mesh's codecs, tokens and their keys, and sessions of
# TLS, with libFuzzer and the address sanitizer; and a canary that must fail, so that the machinery itself is tested.
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

flags=(-g -O -parse-as-library -swift-version 6 -package-name apus -enable-testing "-sanitize=fuzzer,address" -I "$work"
    -I "$root/Sources/C/COpenSSL" -I "$root/Sources/C/CProton" -I "$root/Sources/C/CCurl" -I "$root/Sources/C/CLinux"
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

# seed_plain TARGET NAME NUMBER TEXT…: a byte, then the texts, in which \n and the like are what printf makes of them
seed_plain() {
    mkdir -p "$work/corpus-$1"
    # shellcheck disable=SC2059 # the number is the format
    { printf "\\x$3"; printf '%b' "${@:4}"; } >"$work/corpus-$1/seed-$2"
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
    # A method, an exchange, the same again.
    seed conversation auth5 00 10 2a 0004 4d515454 05 02 0000 1c 15 000d 534352414d2d5348412d323536 16 0009 \
        616e6e613a39303030 0001 63 f0 1a 18 18 15 000d 534352414d2d5348412d323536 16 0005 7269676874 \
        f0 1a 19 18 15 000d 534352414d2d5348412d323536 16 0005 7269676874
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
    seed_plain json text 00 '[1,-2.5e3,"x\\u00e4\\ud83e\\udeb6",{"a":{"b":[]},"c":null},true,false]'
    seed_plain json event 01 '{"topic":"a","payload":"x","qos":1,"retained":true,"content_type":"t","correlation":"c",
        "reply_to":"r","message_id":"m","ttl":5,"priority":4,"partition_key":"p","properties":[["k","v"]]}'
    seed_plain json bytes 01 '{"topic":"a","payload_base64":"/wA=","correlation_base64":"AA==","properties":{"k":"v"}}'
    seed_plain json cloudevent 02 '{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"x","partitionkey":"p",
        "datacontenttype":"text/plain","data":"x","flag":true,"number":5,"none":null}'
    seed_plain json cloudbytes 02 '{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"aGk="}'
    seed_plain json lines 03 '{"topic":"a"}\r\n\n{"topic":"b","payload":"x"}'
    seed_plain json array 03 '[{"specversion":"1.0","id":"1","source":"s","type":"t","topic":"x","data":{}},{}]'
    seed_plain json fields 04 'Apus-Delivery-Mode: guaranteed\r\nApus-Time-To-Live: 5\r\nApus-Property-a: %C3%A4'
    seed_plain json apus 04 'Content-Type: a/b\r\nApus-Partition-Key: k\r\nApus-Correlation-Id: c\r\nApus-Retain: true'
    seed_plain json solace 04 'Solace-Delivery-Mode: persistent\r\nSolace-User-Property-a: b; type=c\r\nbaggage: a=b'
    seed_plain json ce 04 'ce-specversion: 1.0\r\nce-id: 1\r\nce-source: s\r\nce-type: "a\\"b"\r\nce-x: %20'
    seed json properties 05 00 03 612f62 04 01 6b 03 0d0a78 02 02 ff00
    seed_plain json path 06 'a/%C3%A4b//%2B?x=%2F'
    seed_plain json base64 07 'Zm9vYg=='
    # Frames of a whole life; the same as bodies alone; an open with everything, an attach and a detach with composites.
    seed amqpscan session 00 0000001102000000005310c00401a10163 0000001402000001005311c00704404352095209 \
        0000001302000001005312c00603a101614342 0000001402000001005312c00703a10162520141 \
        0000001b02000001005314c009064343a00100434242005375a000 \
        0000001c02000001005314c00a06435201a00100434241005375a000 0000001102000001005314c00302434078 \
        0000001902000001005313c00c074352094352095201435264 0000001802000001005313c00b0740520943520943520243 \
        0000001602000001005315c009054143404100532445 0000001002000001005316c003024341 0000000c0200000100531745 \
        0000000c0200000000531845
    seed amqpscan bodies 01 000900005310c00401a10163 000c01005311c00704404352095209 000b01005312c00603a101614342 \
        000c01005312c00703a10162520141 001301005314c009064343a00100434242005375a000 \
        001401005314c00a06435201a00100434241005375a000 000901005314c00302434078 \
        001101005313c00c074352094352095201435264 001001005313c00b0740520943520943520243 \
        000e01005315c009054143404100532445 000801005316c003024341 00040100531745 00040000531845
    seed amqpscan open 01 \
        003600005310c0310aa10163a1016870000100006000ff7000007530a30165a30165e00602a301410142a30143c10a02a3016be00402 \
        500102
    seed amqpscan attach 01 000900005310c00401a10163 000c01005311c00704404352095209 \
        004201005312c03d0aa10161434250025000005328c0220ba10161434040424040c10a02a3016be0040250010240e00602a301410142 \
        a30174005329c00401a10161404243 001301005314c009064343a00100434242005375a000 \
        003001005316c02b03434100531dc02303a30e616d71703a6e6f742d666f756e64a104676f6e65c10a02a3016be00402500102
    # Messages: data; header, annotations, properties and application properties before a text; pieces with a footer; a
    # map; a CloudEvent; a list of user properties.
    # The life of above behind the header; then with links there already: transfers, dispositions of all outcomes, flow,
    # drain, detach, a second session, and what happens meanwhile.
    seed amqp whole 00 0000001102000000005310c00401a10163 0000001402000001005311c00704404352095209 \
        0000001302000001005312c00603a101614342 0000001402000001005312c00703a10162520141 \
        0000001b02000001005314c009064343a00100434242005375a000 0000000c0200000100531745 0000000c0200000000531845
    # An exchange of SASL, then the header of AMQP, of which the rest is a frame of its own.
    seed amqp sasl 08 00000027 02010000 005341 c0 1a 02 a3 0d 534352414d2d5348412d323536 a0 08 616e6e613a393030 \
        00000015 02010000 005343 c0 08 01 a0 05 7269676874 414d515000010000 0000001102000000005310c00401a10163
    seed amqp sasl-records 09 001f01 005341 c0 1a 02 a3 0d 534352414d2d5348412d323536 a0 08 616e6e613a393030 ff0000 \
        000d01 005343 c0 08 01 a0 05 7269676874 ff0205 000901 005343 c0 04 01 a0 01 78
    seed amqp links 03 001101005311c0070440435209520900 \
        001a00005314c008054343a0010043 42005375a0057878787878 ff0000 ff0605 ff0606 ff0000 \
        001000005315c009054143520341005324c001 00 ff0000 001100005313c00c0743 7000000400435264 520143520a \
        000700005316c003025241 ff0500 ff0000
    seed amqp held 07 ff0601 ff0601 ff0601 ff0601 ff0601 ff0601 ff0601 ff0601 ff0601 ff0100 ff0905 ff0000 ff0503 ff0000 \
        ff0814 ff0740 ff0000 ff0a00 ff0601 ff02ff ff0b00
    seed amqpmessage data 00 00 53 75 a0 01 78
    seed amqpmessage text 0b 00 53 70 c0 05 03 41 50 07 43 00 53 71 c1 05 02 a3 01 64 40 \
        00 53 72 c1 14 04 a3 01 61 40 a3 0c 782d6f70742d72657461696e 41 \
        00 53 73 c0 1d 06 a1 01 69 40 a1 01 74 40 a1 01 72 98 00112233445566778899aabbccddeeff \
        00 53 74 c1 0a 04 a1 01 6b a1 01 76 a1 00 43 00 53 77 a1 02 c3a4
    seed amqpmessage pieces 05 00 80 0000000000000075 b0 00000001 78 00 53 75 a0 00 00 53 78 c1 05 02 a3 01 66 45
    seed amqpmessage map 00 00 53 77 c1 09 02 a1 01 6b e0 04 02 50 01 02
    seed amqpmessage sequence 00 00 53 76 c0 05 02 00 53 01 40 00 53 76 45
    seed amqpmessage cloudevent 00 00 53 74 c1 1f 02 a1 17 636c6f75644576656e74733a7370656376657273696f6e a1 03 312e30 \
        00 53 75 a0 00
    seed amqpmessage list 00 00 53 72 c1 21 02 a3 15 782d6f70742d757365722d70726f70657274696573 c0 07 02 a1 01 61 a1 01 62 \
        00 53 75 a0 00
    # Sealed events, a frame with them, link state, interest, streams; then what a neighbour does: frames of all kinds,
    # copies, time passing, and publishing meanwhile.
    seed meshcontent content 00 00 00 0100 0000 0100 00000000 00000000 78 01000000 70
    seed meshcontent retained 00 05 00 0100 0000 0100 00000000 00000000 0100000000000000 0200000000000000 \
        0300000000000000 78 00000000
    seed meshcontent frame 01 21000009 00021800 0100 0000 0000 0100 0100000000000000 0200 0300 01000000 78
    seed meshcontent delta 03 01000000000000000200000000000000 0100000000000000 01 0000000000000000 01 00 00 00 10 78
    seed meshcontent acknowledgement 04 0100000000000000 0200000000000000 05 8040 808080 04 00 01 02 03 01 01 01
    seed meshcontent queue 08 00 10 00 20 f2 03 0800 04 ff f2 03 1000
    seed meshcontent order 0a 00 22 23 01 a2 05 04 03
    seed mesh events 01 01 00 00 00 01 00 00 00 00 01 00 00 0b 10 02 02 00 00 01 05 00 00 00 02 00 01 0b 20
    seed mesh frames 00 07 00 01 28 03 01 08 01 02 00 05 01 0b 05 05 04 01 00 10 0b 3f 06 03 02 01 00 00 00 0c 00 01 01
    seed mesh sessions 01 0e 01 01 01 02 03 04 00 08 00 00 00 0b 20 0e 02 02 00 08 0b 20 0e 09 01 01 01 01 01 00 10
    seed mesh inquiries 00 04 00 0b 05 00 00 00 01 0b 10 04 00 0c 03 00 01 00 0b 20
    # JSON; a token; claims; a key set; SCRAM's first and last message; OAUTHBEARER's; base64, a user file and the like.
    seed_plain token json 0 '{"a":[1,-2.5e3,"x\\u00e4\\ud83e\\udeb6",{"b":null}],"c":true}'
    seed_plain token token 1 'eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJpIiwiYXVkIjoiYSIsInN1YiI6InUiLCJleHAiOjl9.aGdoZw'
    seed_plain token claims 2 '{"iss":"i","aud":["a","b"],"sub":"u","exp":2000000000.5,"nbf":1,"groups":["g"],"n":5,"t":true}'
    seed_plain token keys 3 '{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        {"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}'
    seed_plain token first 4 'n,a=user,n=us=2Cer,r=fyko+d2lbbFgONRv9qkxdawL'
    seed_plain token final 5 'c=biws,r=xn,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ='
    seed_plain token bearer 6 'n,a=u,\x01host=h\x01auth=Bearer eyJ.e.x\x01\x01'
    seed_plain token base64 7 'Zm9vYg=='
    seed_plain token url 7 'http://127.0.0.1:80/x'
    seed_plain token address 7 '[2001:db8::1%e]:5'
    seed_plain token users 7 'a:$scrypt$ln=10,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA:g,h'
    # A hello whole, in pieces, changed; after the handshake data, new keys, a goodbye.
    seed tls whole 00 00 09 00 09 00 04 20 00 08 10 09 05 01 04 01 00 07 00
    seed tls pieces 0b 01 05 01 60 01 ff 00 09 00 09 00 04 ff 01 14 00
    seed tls changed 01 02 0010 03 00 09 00
    seed tls later 18 04 01 00 05 01 04 02 00 08 01 09 03 10 1703030010
    seed tls older 19 04 01 00 06 04 02 00 09 00 02 0007 10 00
    seed tls plain 00 03 20 474554202f20485454502f312e310d0a0d0a
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
module TestSupport "$root"/Tests/TestSupport/*.swift
module MQTT
# Of Web the protocols and the codecs: the rest of the room has its own tests, and needs embedded files.
web=$root/Sources/Web
module Web "$web"/{HTTP,WebSocket,JSON}/*.swift \
    "$web"/REST/{Batch,CloudEvents,EventHeaders,EventHeaders+Writing,FieldText,PropertyList,TopicPath}.swift
objects=("$work/Core.o" "$work/MQTT.o")
support=$work/TestSupport.o
target codec "$root"/Tests/Fuzz/codec/*.swift "${objects[@]}"
shared=("$root"/Tests/Fuzz/shared/*.swift "$root"/Tests/MQTTTests/{Harness,Frames}.swift "${objects[@]}" "$support")
target conversation "$root"/Tests/Fuzz/conversation/*.swift "${shared[@]}"
target established "$root"/Tests/Fuzz/established/*.swift "${shared[@]}"
target http "$root"/Tests/Fuzz/http/*.swift "$root"/Tests/WebTests/{Harness,PlaySite,HTTPPlay}.swift \
    "$work/Core.o" "$work/Web.o" "$support" -lcrypto
target websocket "$root"/Tests/Fuzz/websocket/*.swift "$root"/Tests/WebTests/WebSocketStage.swift \
    "$work/Core.o" "$work/Web.o" "$support" -lcrypto
target json "$root"/Tests/Fuzz/json/*.swift "$work/Core.o" "$work/Web.o" -lcrypto
module AMQP
target amqpscan "$root"/Tests/Fuzz/amqpscan/*.swift "$work/Core.o" "$work/AMQP.o" -lqpid-proton
target amqpmessage "$root"/Tests/Fuzz/amqpmessage/*.swift "$work/Core.o" "$work/AMQP.o" -lqpid-proton
target amqp "$root"/Tests/Fuzz/amqp/*.swift "$root"/Tests/AMQPTests/{FieldNode,ScriptedAuthenticator}.swift \
    "${objects[@]}" "$work/AMQP.o" "$support" -lqpid-proton
module Mesh
target meshcontent "$root"/Tests/Fuzz/meshcontent/*.swift "$work/Core.o" "$work/Mesh.o" -lcrypto
target mesh "$root"/Tests/Fuzz/mesh/*.swift "$root"/Tests/MeshTests/MeshField.swift \
    "$work/Core.o" "$work/Mesh.o" "$support" -lcrypto
module Security
target token "$root"/Tests/Fuzz/token/*.swift "$work/Core.o" "$work/Security.o" -lcrypto
module TLS
module TestTLS "$root"/Tests/TestTLS/*.swift
target tls "$root"/Tests/Fuzz/tls/*.swift "$root"/Tests/TLSTests/Peer.swift \
    "$work/Core.o" "$work/TLS.o" "$work/TestTLS.o" -lssl -lcrypto
target canary "$root"/Tests/Fuzz/canary/*.swift
seeds

failed=()
summary=
for name in codec conversation established http websocket json amqpscan amqpmessage amqp meshcontent mesh token tls; do
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
