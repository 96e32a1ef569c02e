#!/bin/sh
# Checks that the relative links of all documents lead somewhere. Prints the ones that do not.
set -eu
cd "$(dirname "$0")/.."
bad=$(
    git ls-files '*.md' | while read -r file; do
        # A document under a second name has its links from where it really is.
        [ ! -L "$file" ] || continue
        # Only the path of a link: anchors and addresses are not looked at.
        { grep -o '](\([^) ]*\))' "$file" || true; } | sed 's/^](//; s/)$//; s/#.*//' |
            while read -r link; do
                case $link in
                '' | *://* | mailto:*) continue ;;
                /*) path=.$link ;;
                *) path=$(dirname "$file")/$link ;;
                esac
                [ -e "$path" ] || echo "$file: $link"
            done
    done
)
[ -z "$bad" ] || { printf 'links that lead nowhere:\n%s\n' "$bad" >&2; exit 1; }
