#!/bin/bash
# Makes the Debian package of the program that `make node` has built: .build/apus_VERSION_ARCHITECTURE.deb, and beside
# it apus-dbgsym with the symbols, for debuggers. The same sources, compiler and libraries give the same package.
#
# Variables: APUS (the program, default .build/release/apus), REVISION (of the package, default 1).
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
apus=$(realpath "${APUS:-.build/release/apus}")
[ -x "$apus" ] || { echo "deb.sh: there is no $apus: run 'make node' first" >&2; exit 1; }
version=$("$apus" version)
version=${version#apus }-${REVISION:-1}
architecture=$(dpkg --print-architecture)
# Times of all files in the package: of the last commit.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

python3 packaging/sbom.py "$apus" >.build/apus.cdx.json

work=$repository/.build/deb
rm -rf "$work"
mkdir -p "$work/apus"
cp -r packaging/debian "$work/apus/debian"
cat >"$work/apus/debian/changelog" <<TEXT
apus ($version) unstable; urgency=medium

  * Built from commit $(git rev-parse --short=12 HEAD). What is new: changelog.gz.

 -- Apus maintainers <maintainers@apus.invalid>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
TEXT
(
    cd "$work/apus"
    export APUS_REPOSITORY=$repository APUS=$apus
    debian/rules binary
) >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
rm -f .build/apus_*.deb .build/apus-dbgsym_*.deb
mv "$work"/*.deb .build/
package=.build/apus_${version}_${architecture}.deb
[ -f "$package" ] || { echo "deb.sh: no $package was made" >&2; exit 1; }
echo "$package"
