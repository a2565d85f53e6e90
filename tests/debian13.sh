#!/bin/bash
# Builds a Debian 13 tree with the newer clients: Docker 26, containerd 1.7, podman 5, skopeo 1.18, ctr-remote 0.14.
#
#   tests/debian13.sh OUT
#
# OUT appears only when it is complete. Takes about a minute.
set -euo pipefail

out=$(realpath -m "$1")
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$work"' EXIT
mmdebstrap --quiet --variant=minbase --include=docker.io,docker-cli,containerd,runc,podman,crun,skopeo,stargz-snapshotter,ca-certificates \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' trixie "$work/tree" >"$work/log" 2>&1 || {
    tail -50 "$work/log" >&2
    exit 1
}
mv "$work/tree" "$out"
