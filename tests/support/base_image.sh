#!/bin/sh
# Makes the base image that images of Synod are built from in tests, where it is missing: pulled, or, where no registry can
# be reached, a stand-in of the same name from Debian's packages (as root; needs debootstrap, takes a minute).
#
#   base_image.sh python:3.11-slim-bookworm
#
# The stand-in is Debian 12 with its own Python 3.11, venv, pip and iproute2. Nothing else of the machine is changed.
set -eu
image=$1
pull_s=60

[ -z "$(docker images --quiet "$image")" ] || exit 0
if timeout "$pull_s" docker pull --quiet "$image"; then exit 0; fi
if [ "$image" != python:3.11-slim-bookworm ]; then
    echo "$image cannot be pulled, and there is a stand-in for python:3.11-slim-bookworm only" >&2
    exit 1
fi
command -v debootstrap >/dev/null || { echo "$image cannot be pulled, and debootstrap is not installed" >&2; exit 1; }
echo "$image cannot be pulled: making a stand-in from Debian's packages"
# The mirror that this machine uses for Debian itself; other archives in its list have no package called base-files.
mirror=$(apt-cache policy base-files | awk '$2 ~ /^http/ && $3 ~ /\/main$/ { print $2; exit }')
root=$(mktemp -d)
trap 'rm -rf "$root" "$root.log"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,iproute2,ca-certificates \
    bookworm "$root" ${mirror:+"$mirror"} >"$root.log" 2>&1 || { tail -n 5 "$root.log" >&2; exit 1; }
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar -C "$root" -c . | docker import - "$image"
