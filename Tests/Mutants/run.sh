#!/bin/bash
# Tests the tests: plants one mistake after another in the MQTT codec and conversation (mutants.txt) and runs MQTTTests,
# which must fail each time. A mutant that survives, that does not build, or whose original is not there exactly once
# fails the run.
#
#   Tests/Mutants/run.sh [words]      only mutants whose name has one of the words
#
# The work is done on a copy in .build-mutants with a package of three targets, so that a mutant costs one incremental
# build. The log of the last mutant lies there, too.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
root=$PWD
copy=$root/.build-mutants
table=$root/Tests/Mutants/mutants.txt
# A mutant may make the tests wait for ever; that is found as well.
patience=300

say() { printf 'mutants: %s (%d s)\n' "$*" "$SECONDS"; }

mkdir -p "$copy/Sources" "$copy/Tests"
cp "$root/Tests/Mutants/Package.swift.txt" "$copy/Package.swift"

# Brings the copy back to what is in the tree; unchanged files keep their times, so that nothing else is built again.
restore() {
    local folder
    for folder in Sources/Core Sources/MQTT Tests/TestSupport Tests/MQTTTests; do
        mkdir -p "$copy/$folder"
        (cd "$root/$folder" && find . -type f) | sort >"$copy/wanted"
        (cd "$copy/$folder" && find . -type f) | sort >"$copy/present"
        comm -13 "$copy/wanted" "$copy/present" | while read -r file; do rm "$copy/$folder/$file"; done
        while read -r file; do
            cmp -s "$root/$folder/$file" "$copy/$folder/$file" && continue
            mkdir -p "$(dirname "$copy/$folder/$file")"
            cp "$root/$folder/$file" "$copy/$folder/$file"
        done <"$copy/wanted"
    done
}

build() { (cd "$copy" && swift build --build-tests) >"$copy/build.log" 2>&1; }
tests() { (cd "$copy" && timeout -k 5 "$patience" swift test --skip-build) >"$copy/test.log" 2>&1; }

restore
say "building"
build || { grep -E 'error' "$copy/build.log" | head; say "FAILED: the tree does not build, see $copy/build.log"; exit 1; }
tests || { grep '✘' "$copy/test.log" | head; say "FAILED: the tests fail without any mutant"; exit 1; }

mapfile -t names < <(sed -n 's/^## //p' "$table")
survivors=()
killed=0
for name in "${names[@]}"; do
    if [ $# -gt 0 ]; then
        wanted=
        for word in "$@"; do [[ $name == *$word* ]] && wanted=1; done
        [ -n "$wanted" ] || continue
    fi
    restore
    if ! "$root/Tests/Mutants/plant.py" "$table" "$name" "$copy"; then
        say "NOT PLANTED: $name"
        survivors+=("$name (not planted)")
    elif ! build; then
        grep -E 'error:' "$copy/build.log" | head -3
        say "DOES NOT BUILD: $name"
        survivors+=("$name (does not build)")
    elif tests; then
        say "SURVIVED: $name"
        survivors+=("$name")
    else
        killed=$((killed + 1))
        say "dead: $name, by $(grep -oE '^✘ Test [a-z][A-Za-z0-9_]*\(' "$copy/test.log" | sort -u | wc -l) tests"
    fi
done
restore

if [ ${#survivors[@]} -gt 0 ]; then
    say "FAILED: $killed dead, but:"
    printf '  %s\n' "${survivors[@]}"
    exit 1
fi
[ "$killed" -gt 0 ] || { say "FAILED: no mutant has that name"; exit 1; }
say "passed: $killed mutants, all dead"
