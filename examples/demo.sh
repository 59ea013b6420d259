#!/usr/bin/env bash
# The demo of shoal: a fleet of two hosts on this machine, a registry, and a small web service built and run on both.
# Runs as root on Debian; `make demo` calls it. It prints each command before it runs it, and takes everything down again.
# What stays: the packages, .venv, and the base image in $SHOAL_DEMO_CACHE (default /var/cache/shoal-demo).
set -euo pipefail

readonly HERE=$(cd "$(dirname "$0")/.." && pwd)
readonly CACHE=${SHOAL_DEMO_CACHE:-/var/cache/shoal-demo}
readonly GROUP=sandbox SUITE=bookworm
WORK= REGISTRY_PID= FOLLOW_PID=

title() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

# Print a command as one would type it.
announce() {
    local word line=
    for word in "$@"; do
        case $word in
            *[!A-Za-z0-9_./:=,@+-]* | '') line+=" '$word'" ;;
            *) line+=" $word" ;;
        esac
    done
    printf '\n\033[1m$%s\033[0m\n' "$line"
}

show() {
    announce "$@"
    "$@"
}

# Run a command as `show` does; its output must hold each of the texts before `--`.
expect() {
    local texts=() text
    while [ "$1" != -- ]; do texts+=("$1"); shift; done
    shift
    announce "$@"
    "$@" | tee "$WORK/output"
    for text in "${texts[@]}"; do
        grep -qF -- "$text" "$WORK/output" || die "expected '$text' in the output of: $*"
    done
}

clean_up() {
    local code=$?
    trap '' INT TERM HUP
    trap - EXIT
    set +e
    if [ -n "$WORK" ]; then
        [ -z "$FOLLOW_PID" ] || kill "$FOLLOW_PID" 2>/dev/null
        if [ -d "$WORK/sandbox" ]; then
            case $code in
                0 | 130 | 143) ;;
                *) tail -n 15 "$WORK"/sandbox/*/shoald.log >&2 ;;
            esac
            title "Taking the sandbox down"
            shoald sandbox --down --group "$GROUP" --dir "$WORK/sandbox" --config "$SHOAL_CONFIG" || code=1
        fi
        if [ -n "$REGISTRY_PID" ]; then
            kill "$REGISTRY_PID" 2>/dev/null
            wait "$REGISTRY_PID" 2>/dev/null
        fi
        rm -rf -- "$WORK"
    fi
    [ "$code" -eq 0 ] || printf 'demo: failed (%s)\n' "$code" >&2
    exit "$code"
}

install() {
    deploy/apt-install.sh deploy/apt-packages.txt deploy/apt-packages-demo.txt
    make --no-print-directory venv
    export PATH="$HERE/.venv/bin:$PATH"
}

free_port() {  # address, first choice: a TCP port that nothing listens on
    python3 - "$1" "$2" <<'PYTHON'
import socket, sys
for port in (int(sys.argv[2]), 0):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((sys.argv[1], port))
        except OSError:
            continue
        print(s.getsockname()[1])
        break
PYTHON
}

start_registry() {
    mkdir -p "$WORK/registry"
    cat >"$WORK/registry.yml" <<YAML
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $WORK/registry}}
http: {addr: "$REGISTRY", secret: demo}
YAML
    OTEL_TRACES_EXPORTER=none docker-registry serve "$WORK/registry.yml" >"$WORK/registry.log" 2>&1 </dev/null &
    REGISTRY_PID=$!
    for _ in $(seq 100); do
        ! curl -sf "http://$REGISTRY/v2/" >/dev/null || return 0
        kill -0 "$REGISTRY_PID" 2>/dev/null || break
        sleep 0.1
    done
    die "the registry does not start: $(tail -n 3 "$WORK/registry.log")"
}

# Put a root file system (a tar) into the registry as an image of one layer: tar, name, command.
seed() {
    local layout="$WORK/layout"
    rm -rf "$layout"
    umoci init --layout "$layout"
    umoci new --image "$layout:image"
    umoci raw add-layer --image "$layout:image" "$1"
    umoci config --image "$layout:image" --config.cmd "$3" \
        --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    skopeo --insecure-policy copy -q --dest-tls-verify=false "oci:$layout:image" "docker://$REGISTRY/$2"
    rm -rf "$layout"
}

busybox_tar() {
    local root="$WORK/busybox"
    mkdir -p "$root"/{bin,dev,etc,home,proc,sys,usr/bin,usr/sbin,usr/local/bin,var} "$root"/tmp "$root"/root
    chmod 1777 "$root/tmp"
    chmod 700 "$root/root"
    cp "$(command -v busybox)" "$root/bin/busybox"
    local applet
    for applet in $("$root/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'root:x:0:' >"$root/etc/group"
    tar -C "$root" --owner=0 --group=0 --numeric-owner -cf "$WORK/busybox.tar" .
}

debian_tar() {
    local tar="$CACHE/debian-$SUITE.tar"
    [ ! -s "$tar" ] || return 0
    title "Making a Debian base image (once; kept in $CACHE)"
    mkdir -p "$CACHE"
    mmdebstrap --quiet --variant=minbase \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        "$SUITE" "$WORK/debian.tar"
    mv "$WORK/debian.tar" "$tar.$$"
    mv "$tar.$$" "$tar"
}

[ "$(id -u)" -eq 0 ] || die "run it as root: it starts containers"
command -v apt-get >/dev/null || die "it installs what it needs with apt: run it on Debian"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
cd "$HERE"

title "Installing what is missing"
install
WORK=$(mktemp -d /tmp/shoal-demo.XXXXXX)
chmod 711 "$WORK"  # user namespaces of containers pass through to their files
export SHOAL_CONFIG="$WORK/config.toml"
unset SHOAL_HOSTS

title "A registry with two base images"
REGISTRY=127.0.0.1:$(free_port 127.0.0.1 5050)
PORT=$(free_port 0.0.0.0 8080)
start_registry
busybox_tar
debian_tar
seed "$WORK/busybox.tar" busybox:latest sh
seed "$CACHE/debian-$SUITE.tar" "debian:$SUITE-slim" bash
curl -sf "http://$REGISTRY/v2/_catalog"

title "A fleet of two hosts on this machine"
printf 'To follow along while this runs:\n  export SHOAL_CONFIG=%s PATH=%s/.venv/bin:$PATH\n' "$SHOAL_CONFIG" "$HERE"
show shoald sandbox --hosts 2 --detach --group "$GROUP" --dir "$WORK/sandbox" --config "$SHOAL_CONFIG"
show shoal host list
show shoal host test -g "$GROUP"

title "Pull an image on both hosts"
show shoal pull -g "$GROUP" "$REGISTRY/busybox"
expect "hello from a container" -- shoal run --rm -H "$GROUP-1" "$REGISTRY/busybox" echo "hello from a container"

title "Build a web service on both hosts, and run it"
show shoal build -g "$GROUP" -t hello --build-arg "REGISTRY=$REGISTRY" examples/hello
show shoal run -d -g "$GROUP" --name hello -p "$PORT:8080" -e "GREETING=Hello, fleet," hello
expect hello -- shoal ps -g "$GROUP"
# Each host of a sandbox publishes ports on a loopback address of its own.
ADDRESSES=$(shoal ps -g "$GROUP" -f name=hello --format '{{.Ports}}' | sed -n 's/^\([0-9.]*:[0-9]*\)->.*/\1/p' | sort)
[ "$(echo "$ADDRESSES" | wc -w)" -eq 2 ] || die "expected two published ports, not: $ADDRESSES"
greetings=
for address in $ADDRESSES; do
    curl -sfo "$WORK/first" --retry 20 --retry-connrefused --retry-delay 1 "http://$address/healthz" || true
    expect "Hello, fleet, from " -- curl -sS "http://$address/"
    greetings+="$(cat "$WORK/output")"$'\n'
done
[ "$(printf %s "$greetings" | sort -u | wc -l)" -eq 2 ] || die "both hosts answered with the same name"

title "Follow its logs while requests come in, then stop it"
printf '\n\033[1m$ shoal logs -f -g %s hello &\033[0m\n' "$GROUP"
shoal logs -f -g "$GROUP" hello >"$WORK/followed" 2>&1 &
FOLLOW_PID=$!
for address in $ADDRESSES; do
    show curl -sS "http://$address/healthz"
done
show shoal stop -g "$GROUP" hello
wait "$FOLLOW_PID" || die "shoal logs -f failed: $(cat "$WORK/followed")"
FOLLOW_PID=
cat "$WORK/followed"
[ "$(grep -c 'GET /healthz 200' "$WORK/followed")" -ge 4 ] || die "expected a line for each request in the logs"
expect exited -- shoal ps -a -g "$GROUP" --format '{{.Host}} {{.Names}} {{.State}} {{.Status}}'

title "Clean up"
show shoal rm -g "$GROUP" hello
expect hello -- shoal images -g "$GROUP"
show shoal rmi -g "$GROUP" hello
show shoal ps -a -g "$GROUP"
title "That was shoal. README.md says how to set up hosts of your own."
