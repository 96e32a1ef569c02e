#!/bin/sh
# Installs what has been built, or takes it away again. `make install` and `make uninstall` call it.
#
#   packaging/install.sh install|uninstall
#
# Variables: PREFIX (default /usr/local), SYSCONFDIR (/etc), DESTDIR (a folder that stands for /, for packages),
# APUS (the program to install, default .build/release/apus), ZSHDIR (where zsh looks for completions).
set -eu
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local}
sysconfdir=${SYSCONFDIR:-/etc}
root=${DESTDIR:-}
apus=${APUS:-.build/release/apus}
zsh=${ZSHDIR:-$prefix/share/zsh/site-functions}
doc=$prefix/share/doc/apus
unit=$prefix/lib/systemd/system/apus.service
sysusers=$prefix/lib/sysusers.d/apus.conf
manual=$prefix/share/man/man1/apus.1
bash=$prefix/share/bash-completion/completions/apus
fish=$prefix/share/fish/vendor_completions.d/apus.fish
config=$sysconfdir/apus/apus.yaml

case $prefix$sysconfdir in
/*) ;;
*) echo "install.sh: PREFIX and SYSCONFDIR begin with /" >&2; exit 2 ;;
esac

put() { install -D -m "$1" "$2" "$root$3"; }

# write PATH COMMAND…: a file of what the command prints; none when it fails.
write() {
    path=$root$1
    shift
    mkdir -p "$(dirname "$path")"
    "$@" >"$path.new" || { rm -f "$path.new"; return 1; }
    chmod 644 "$path.new"
    mv "$path.new" "$path"
}

unit() {
    sed "s|@BINDIR@|$prefix/bin|g; s|@SYSCONFDIR@|$sysconfdir|g; s|@DOCDIR@|$doc|g" packaging/apus.service.in
}

# It is sourced, never run.
bash_completions() { "$apus" completions bash | sed '1{/^#!/d}'; }

# The documents and configurations; without git (in a container's build) whatever is there.
documents() { git ls-files docs mesh-configs 2>/dev/null | grep . || find docs mesh-configs -type f ! -name '.*'; }

install_all() {
    [ -x "$apus" ] || { echo "install.sh: there is no $apus: run 'make node' first" >&2; exit 1; }
    put 755 "$apus" "$prefix/bin/apus"
    write "$unit" unit
    put 644 packaging/apus.sysusers "$sysusers"
    # What somebody has changed stays.
    if [ -e "$root$config" ]; then
        cmp -s packaging/apus.yaml "$root$config" || echo "$config has been changed and stays as it is" >&2
    else
        put 644 packaging/apus.yaml "$config"
    fi
    write "$bash" bash_completions
    write "$zsh/_apus" "$apus" completions zsh
    write "$fish" "$apus" completions fish
    if command -v python3 >/dev/null; then
        write "$manual" python3 packaging/manual.py "$apus"
    else
        echo "without python3 there is no manual page" >&2
    fi
    put 644 LICENSE "$doc/LICENSE"
    put 644 README.md "$doc/README.md"
    put 644 SECURITY.md "$doc/SECURITY.md"
    put 644 CHANGELOG.md "$doc/CHANGELOG.md"
    documents | while read -r file; do put 644 "$file" "$doc/$file"; done
    [ ! -e .build/apus.cdx.json ] || put 644 .build/apus.cdx.json "$doc/apus.cdx.json"
}

uninstall_all() {
    rm -f "$root$prefix/bin/apus" "$root$unit" "$root$sysusers" "$root$manual" "$root$bash" "$root$zsh/_apus" \
        "$root$fish"
    rm -rf "${root:?}$doc"
    if cmp -s packaging/apus.yaml "$root$config"; then
        rm -f "$root$config"
        rmdir "$root$sysconfdir/apus" 2>/dev/null || echo "$sysconfdir/apus is not empty and stays" >&2
    elif [ -e "$root$config" ]; then
        echo "$config has been changed and stays" >&2
    fi
}

case ${1:-} in
install)
    install_all
    if [ -z "$root" ]; then
        echo "Installed. As a service: systemd-sysusers && systemctl daemon-reload && systemctl enable --now apus"
    fi
    ;;
uninstall)
    if [ -z "$root" ] && [ -d /run/systemd/system ] && systemctl is-active --quiet apus; then
        echo "install.sh: apus.service is running: systemctl disable --now apus" >&2
        exit 1
    fi
    uninstall_all
    ;;
*)
    echo "install.sh install|uninstall" >&2
    exit 2
    ;;
esac
