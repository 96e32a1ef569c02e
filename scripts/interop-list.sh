#!/bin/sh
# Checks that Interop/README.md names every file of Interop, and as tests just those that Interop/run.sh runs.
set -eu
cd "$(dirname "$0")/../Interop"
bad=$(
    git ls-files | while read -r file; do
        case $file in README.md | */run.sh) continue ;; esac
        grep -qF "\`$file\`" README.md || echo "README.md does not name $file"
    done
    run=$(sed -n '/^everything="/,/"$/p' run.sh | tr -d '"\134' | sed 's/^everything=//' | xargs -n 1 | sort)
    told=$(sed -n '/^## Tests/,/^## What/s/^| `\([^`]*\)` |.*/\1/p' README.md | sort)
    for name in $run; do
        [ -e "$name" ] || echo "run.sh runs $name, which there is not"
        echo "$told" | grep -qxF "$name" || echo "run.sh runs $name, README.md has it not among the tests"
    done
    for name in $told; do
        echo "$run" | grep -qxF "$name" || echo "README.md has $name among the tests, run.sh does not run it"
    done
)
[ -z "$bad" ] || { printf '%s\n' "$bad" >&2; exit 1; }
