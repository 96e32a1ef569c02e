#!/bin/sh
# Installs the Debian packages that are missing, and nothing when none is.
#
#   scripts/packages.sh build                what the toolchain and the node's libraries need
#   scripts/packages.sh build bench interop  more groups at once; there are also: demo models deb package lint
#   scripts/packages.sh --list build         only print the names
set -eu

# Swift for Linux comes without a linker, without libc's headers, and without libraries that its own tools load.
# libstdc++-*-dev (below) brings the compiler's start files, too.
toolchain="binutils libc6-dev libcurl4 libncurses6 libsqlite3-0 libxml2 pkg-config"
node="libssl-dev libyaml-dev libmosquitto-dev libcurl4-openssl-dev libqpid-proton-dev"
bench="mosquitto valgrind nginx-light wrk rabbitmq-server nats-server"
interop="curl mosquitto slowhttptest python3 python3-venv mosquitto-clients prometheus chromium chromium-driver fonts-dejavu-core \
    nodejs python3-qpid-proton gcc python3-dev iproute2 openssl sslscan testssl.sh"
demo="curl python3 python3-qpid-proton mosquitto-clients"
deb="debhelper dpkg-dev python3"
package="lintian mmdebstrap systemd systemd-container iproute2 python3 python3-venv"
lint="shellcheck"
models="default-jre-headless python3 python3-venv"

list_only=
if [ "${1:-}" = --list ]; then
    list_only=yes
    shift
fi
wanted=
for group in "$@"; do
    case $group in
    build) wanted="$wanted $toolchain $node" ;;
    bench) wanted="$wanted $bench" ;;
    interop) wanted="$wanted $interop" ;;
    demo) wanted="$wanted $demo" ;;
    models) wanted="$wanted $models" ;;
    deb) wanted="$wanted $deb" ;;
    package) wanted="$wanted $deb $package" ;;
    lint) wanted="$wanted $lint" ;;
    *)
        echo "packages.sh: unknown group '$group'; there are: build bench interop demo models deb package lint" >&2
        exit 2
        ;;
    esac
done

if ! command -v dpkg-query >/dev/null; then
    [ -z "$list_only" ] || { echo "$wanted"; exit; }
    echo "packages.sh: this is no Debian; assuming that the equivalents of these are installed:$wanted" >&2
    exit 0
fi

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ] || is_provided "$1"
}

# Some names are no packages: libqpid-proton-dev is what libqpid-proton11-dev provides, and with another release
# another one. apt-get knows what to install by such a name, but the package database has no entry of it.
is_provided() {
    case $1 in
    libqpid-proton-dev)
        dpkg-query -W -f '${db:Status-Status}, ${Provides}\n' 'libqpid-proton*-dev' 2>/dev/null |
            grep -Eq "^installed,(.*,)? $1( \\(|,|\$)"
        ;;
    *) return 1 ;;
    esac
}

# The C++ headers' package has the compiler's version in its name; any version will do.
case " $wanted " in
*" libc6-dev "*)
    if ! dpkg-query -W -f '${db:Status-Status}\n' 'libstdc++-*-dev' 2>/dev/null | grep -qx installed; then
        release=$(. /etc/os-release && echo "${VERSION_ID:-12}")
        case $release in
        13*) wanted="$wanted libstdc++-14-dev" ;;
        24.*) wanted="$wanted libstdc++-13-dev" ;;
        *) wanted="$wanted libstdc++-12-dev" ;;
        esac
    fi
    ;;
esac

missing=
for package in $wanted; do
    is_installed "$package" || missing="$missing $package"
done
if [ -n "$list_only" ]; then
    echo "$wanted"
    exit
fi
[ -n "$missing" ] || exit 0

root=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "packages.sh: not root and no sudo; please install:$missing" >&2
        exit 1
    fi
    # Without a terminal nobody can type a password: fail instead of waiting.
    if [ -t 0 ]; then root=sudo; else root="sudo -n"; fi
fi
install() {
    # shellcheck disable=SC2086 # the names are words
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
}

# The package of the peer broker starts a service on port 1883, which is the node's, and Prometheus, nginx, RabbitMQ and
# Erlang (epmd) others. Only their programs are wanted.
policy=/usr/sbin/policy-rc.d
policy_is_ours=
services=
case " $missing " in *" mosquitto "*) services=mosquitto ;; esac
# An nginx that was there before is somebody's own.
case " $missing " in *" nginx-light "*) is_installed nginx || services="$services nginx" ;; esac
case " $missing " in *" rabbitmq-server "*) services="$services rabbitmq-server" ;; esac
case " $missing " in *" nats-server "*) services="$services nats-server" ;; esac
# Erlang comes with RabbitMQ, or was somebody's own.
case " $missing " in *" rabbitmq-server "*) is_installed erlang-base || services="$services epmd" ;; esac
case " $missing " in
*" mosquitto "* | *" prometheus "* | *" nginx-light "* | *" rabbitmq-server "* | *" nats-server "*)
    if [ ! -e $policy ]; then
        policy_is_ours=yes
        trap '$root rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' | $root tee $policy >/dev/null
        $root chmod 755 $policy
    fi
    ;;
esac

echo "Installing:$missing" >&2
# The lists may be absent or old; one broken third-party source must not stand in the way.
update() { $root apt-get update -q || true; }
ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || update
install || { update; install; }
if [ -n "$policy_is_ours" ] && [ -d /run/systemd/system ]; then
    for service in $services; do $root systemctl disable -q "$service.service" || true; done
    case " $services " in *" epmd "*) $root systemctl disable -q epmd.socket || true ;; esac
fi
