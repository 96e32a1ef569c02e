# Sourced by the shell tests: a node (node.sh), and checks that are counted in `checks`.
# shellcheck shell=bash
# shellcheck disable=SC2034 # the scripts that source this say at their end how many checks passed

. "$(dirname "${BASH_SOURCE[0]}")/node.sh"

checks=0

fail() { echo "FAILED: $*" >&2; exit 1; }

is() { # is WHAT WANTED GOT
    [ "$2" = "$3" ] || fail "$1: wanted '$2', got '$3'"
    checks=$((checks + 1))
}

has() { # has WHAT PART WHOLE
    [[ "$3" == *"$2"* ]] || fail "$1: wanted '$2' in '$3'"
    checks=$((checks + 1))
}

# await WHAT COMMAND…: until it prints WHAT. Patience, not a judgement: it may be long.
await() {
    local wanted=$1 got=
    shift
    for _ in $(seq 300); do
        got=$("$@" 2>&1) || true
        [ "$got" = "$wanted" ] && return 0
        sleep 0.1
    done
    fail "waited for '$wanted', got '$got'"
}

# counter NAME: what the node has counted.
counter() { counters | sed -n "s/.*\"$1\":\"\([0-9]*\)\".*/\1/p"; }

# Each subscriber's output is in a file, because a command substitution would wait for it.
out() { echo "$scratch/out-$1"; }

# await_lines COUNT FILE…: until there are so many lines in all of them.
await_lines() { await "$1" lines_of "${@:2}"; }
lines_of() { cat "$@" | wc -l; }
