#!/usr/bin/env bash
# Builds the image on a bare Debian and tries it, without a Docker daemon and without a registry: debootstrap makes the
# base, buildah builds, check_container.py runs what an operator would. As root; installs the Debian packages it needs.
#
# CHECK_IMAGE_CACHE names the directory that keeps the base and pip's downloads from run to run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly SUITE=bookworm
readonly PACKAGES=(buildah debootstrap util-linux ca-certificates docker-compose)
readonly LAYERS_LIMIT_MB=172 # so that with python:3.13-slim-bookworm, 48 MB, the whole image stays below 220 MB
readonly CACHE="${CHECK_IMAGE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/certstream-check-image}"
readonly IMAGE=localhost/certstream-server
export TMPDIR="$CACHE/tmp" # buildah's cache mounts lie there, and large files on the way into an image

say() { printf 'check-image: %s\n' "$*"; }
fail() { printf 'check-image: FAILED: %s\n' "$*" >&2; exit 1; }
in_storage() { buildah --root "$CACHE/storage" --runroot "$work/run" --storage-driver vfs "$@"; }

has() { command -v "$1" >/dev/null; }

need_packages() {
    has buildah && has debootstrap && has unshare && { has docker-compose || docker compose version; } >/dev/null 2>&1 && return
    has apt-get || fail "needs ${PACKAGES[*]}, and there is no apt-get to install them"
    say "installing ${PACKAGES[*]}"
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update || fail "apt-get update; it was to install ${PACKAGES[*]}"
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends "${PACKAGES[@]}" >/dev/null ||
        fail "cannot install ${PACKAGES[*]}"
}

# The mirror that this machine's own apt reads; debootstrap's default where that is not known
mirror() {
    has apt-get || return 0
    apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n "s/^Debian main [a-z]* //p" | head -n 1
}

# A directory with Debian, Python and venv, as a tar file; made once
bootstrapped() {
    [ -s "$CACHE/$SUITE.tar" ] && return
    say "debootstrap $SUITE"
    local from
    from="$(mirror)"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$SUITE" "$work/debian" ${from:+"$from"} \
        >"$work/debootstrap.log" 2>&1 || { tail -n 5 "$work/debootstrap.log" >&2; fail "debootstrap $SUITE"; }
    rm -rf "$work"/debian/var/cache/apt/archives/*.deb "$work"/debian/var/lib/apt/lists/*
    tar -C "$work/debian" --one-file-system -cf "$CACHE/$SUITE.tar.new" .
    rm -rf "$work/debian"
    mv "$CACHE/$SUITE.tar.new" "$CACHE/$SUITE.tar"
}

# The base image: that Debian with the machine's certificate authorities and pip configuration, as a company's own base
# has them. Sets $base.
make_base() {
    local authorities=/etc/ssl/certs/ca-certificates.crt
    base="localhost/certstream-base:$(cat "$CACHE/$SUITE.tar" "$authorities" /etc/pip.conf 2>/dev/null | sha256sum | cut -c1-12)"
    in_storage inspect --type image "$base" >/dev/null 2>&1 && return
    in_storage rmi --all --force >/dev/null 2>&1 || true
    local container
    container="$(in_storage from scratch)"
    in_storage add --quiet "$container" "$CACHE/$SUITE.tar" / >/dev/null
    [ ! -s "$authorities" ] || in_storage copy --quiet "$container" "$authorities" "$authorities" >/dev/null
    [ ! -s /etc/pip.conf ] || in_storage copy --quiet "$container" /etc/pip.conf /etc/pip.conf >/dev/null
    in_storage commit --quiet --rm "$container" "$base" >/dev/null
}

# By the newer client, which may be there without a daemon, or by Debian's old one, which knows no name
check_compose() {
    local compose=(docker compose)
    docker compose version >/dev/null 2>&1 || compose=(docker-compose)
    sed '/^name:/d' deploy/compose.yaml >"$work/compose.yaml"
    local flags
    for flags in --demo ""; do
        SERVICE_FLAGS="$flags" "${compose[@]}" --project-directory deploy -f "$work/compose.yaml" config >/dev/null ||
            fail "compose.yaml is not valid"
    done
    say "compose.yaml is valid"
}

build() {
    local index
    index="$(python3 -m pip config list 2>/dev/null | sed -n "s/^[^=]*\.index-url='\(.*\)'\$/\1/p" | tail -n 1)" || true
    in_storage bud --quiet --format docker --isolation chroot --build-arg BASE="$base" \
        --build-arg PIP_INDEX_URL="$index" --tag "$IMAGE" . >"$work/build.log" 2>&1 ||
        { tail -n 30 "$work/build.log" >&2; fail "the image does not build"; }
    say "built on $SUITE with $(du -sh --apparent-size "$CACHE/$SUITE.tar" | cut -f1) of Debian as $base"
}

# What has to be fetched beside the base: the layers above it, gzip, in MB of 10^6 bytes
measure() {
    in_storage push --quiet "$IMAGE" "oci:$work/oci" >/dev/null 2>&1 || fail "cannot write the image's layers"
    python3 -m deploy.check_container size "$work/oci" "$LAYERS_LIMIT_MB"
    rm -rf "$work/oci"
}

try_out() {
    container="$(in_storage from --pull-never "$IMAGE")"
    in_storage inspect --type image "$IMAGE" >"$work/image.json"
    python3 -m deploy.check_container run "$work/image.json" "$(in_storage mount "$container")" "$work"
}

clean_up() {
    local code=$?
    [ -z "${container:-}" ] || in_storage rm "$container" >/dev/null 2>&1 || true
    [ ! -d "$CACHE/storage" ] || in_storage rmi --force "$IMAGE" >/dev/null 2>&1 || true
    rm -rf --one-file-system "$work"
    exit "$code"
}

[ "$(id -u)" = 0 ] || fail "needs root, for a container of its own, and the packages ${PACKAGES[*]}"
need_packages
mkdir -p "$CACHE/storage" "$CACHE/tmp"
exec 9>"$CACHE/lock"
flock 9 # one at a time on one cache
work="$(mktemp -d "$CACHE/run.XXXXXX")"
container=
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

bootstrapped
make_base
check_compose
build
measure
try_out
say "passed in $SECONDS s"
