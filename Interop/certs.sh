#!/bin/bash
# The commands that make certificates and join meshes, by what they print, write and refuse; and what the command
# openssl says of the results.
set -euo pipefail
cd "$(dirname "$0")"
. ./checks.sh

matches() { # matches WHAT PATTERN TEXT
    grep -q -- "$2" <<<"$3" || fail "$1: no '$2' in '$3'"
    checks=$((checks + 1))
}
refused() { # refused PATTERN COMMAND…: ends with 1 and says so on standard error
    local pattern=$1 status=0 text
    shift
    text=$("$@" 2>&1 >/dev/null) || status=$?
    [ "$status" -eq 1 ] || fail "$* ended with $status: $text"
    matches "$*" "$pattern" "$text"
}
rights() { stat -c %a "$@" | tr '\n' ' '; }

cd "$scratch"
export APUS_NODE_DATA=$scratch/data
refused 'apus certs init' "$apus" certs client device-1
matches "an authority" 'certs/ca.key' "$("$apus" certs init --name 'Test CA')"
refused '--force' "$apus" certs init
"$apus" certs node node-1 --host localhost --host 127.0.0.1 --mesh plant >/dev/null
"$apus" certs server web --host web.example.org >/dev/null
echo "a passphrase" >passphrase
"$apus" certs client device-1 --group devices --group 'Halle 3' --key-passphrase-file passphrase >/dev/null
refused '--force' "$apus" certs client device-1
refused 'cannot be a name' "$apus" certs client ../device
refused 'neither' "$apus" certs server x --host 'a b'
matches "rights of keys" '^600 600 600 600 $' "$(rights certs/ca.key certs/node-1.key certs/web.key certs/device-1.key)"
matches "a node's certificate" 'localhost, 127.0.0.1' "$("$apus" certs show certs/node-1.crt)"
matches "groups" 'devices, Halle 3' "$("$apus" certs show certs/device-1.crt)"
matches "openssl, a node" ': OK' "$(openssl verify -x509_strict -CAfile certs/ca.crt -purpose sslserver certs/node-1.crt)"
matches "openssl, an encrypted key" 'Key is valid' \
    "$(openssl pkey -in certs/device-1.key -passin file:passphrase -noout -check)"
matches "a list of revoked ones" '^1 \|  1 revoked' "$("$apus" certs revoke device-1)"
matches "openssl, revoked" 'certificate revoked' \
    "$(openssl verify -CAfile certs/ca.crt -CRLfile certs/ca.crl -crl_check certs/device-1.crt 2>&1 || true)"
refused 'nothing was issued' "$apus" certs revoke device-2
matches "the list" 'device-1 *client *revoked 2' "$("$apus" certs list)"
matches "the list" 'node-1 *node *good' "$("$apus" certs list)"
matches "a renewed list" 'revoked; renew it' "$("$apus" certs crl --days 7)"

# A machine joins, and leaves again.
"$apus" invite node-2 --address localhost:7400 --mesh plant >token 2>hint
matches "the hint" 'This is a secret' "$(cat hint)"
matches "the hint" 'apus join -$' "$(cat hint)"
matches "the token" '^apus1\.[A-Za-z0-9_-]*$' "$(cat token)"
[ ! -e certs/node-2.key ] || fail "the key of a token stays where the token goes"
refused 'is damaged' "$apus" join "$(head -c 900 token)"
# One letter of a certificate in it is another.
letter=$(cut -c 301 token | tr 'A-Za-z0-9_-' 'B-ZAb-za1-90_-')
[ "$letter" != _ ] && [ "$letter" != - ] || letter=A
refused 'the token is damaged' "$apus" join "$(cut -c -300 token)$letter$(cut -c 302- token)"
refused 'no token' "$apus" join nonsense
matches "joining" "is the node .* of the mesh 'plant'" "$("$apus" join - --listen 127.0.0.1:7401 <token)"
matches "rights of what is written" '^600 600 700 $' "$(rights data/mesh/node.key data/mesh/identity data/mesh)"
refused 'has joined a mesh already' "$apus" join "$(cat token)"
matches "leaving" 'apus certs revoke node-2' "$("$apus" leave)"
[ ! -e data/mesh/joined.yaml ] && [ -e "$(echo data/mesh/left-*/node.key)" ] || fail "leaving moved nothing"
refused 'has not joined' "$apus" leave
"$apus" certs revoke node-2 >/dev/null

# A node that is in its mesh by its configuration leaves as well, and is told what that is worth.
cat >mesh.yaml <<YAML
node: { name: by-file }
listeners:
  - { protocol: mqtt, listen: "127.0.0.1:0" }
mesh: { listen: "127.0.0.1:0" }
YAML
APUS_NODE_DATA=$scratch/elsewhere start_node "$scratch/mesh.yaml"
refused "has --data $scratch/elsewhere" "$apus" leave --admin "$node_admin"
left=$("$apus" leave --admin "$node_admin" --data "$scratch/elsewhere")
matches "leaving by file" 'by-file has left the mesh' "$left"
matches "what that is worth" 'joins again when it starts: take `mesh` out' "$left"
[[ $left != *revoke* ]] || fail "a certificate is to be revoked that is not there: $left"
stop_node

# Everything that mesh-configs/secure needs, where its files look for it.
mkdir example && cd example
matches "the example" 'mesh-configs/secure/node.yaml' "$("$apus" certs example)"
for file in "$root"/mesh-configs/secure/*.yaml; do
    matches "$file" '^OK' "$(env -u APUS_NODE_DATA "$apus" check "$file")"
    while read -r name; do
        [ -r "$name" ] || fail "$file names $name, which is not there"
    done < <(grep -o '\./certs/[a-z0-9.-]*' "$file")
done
echo "right" >wrong
refused 'the password is wrong' "$apus" user check --file certs/users --password-file wrong olivia
matches "the example's user" 'is right' \
    "$("$apus" user check --file certs/users --password-file certs/olivia.password olivia)"

echo "certs: $checks checks passed"
