#!/bin/bash
# Builds containerd 2 with Go: containerd, ctr and its shim.
#
#   tests/containerd2.sh OUT
#
# OUT appears only when it is complete. Takes about two minutes.
set -euo pipefail

# The version that the tests are known to pass with.
version=v2.4.2
out=$(realpath -m "$1")
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$work"' EXIT
module=github.com/containerd/containerd/v2/cmd
GOBIN=$work/bin CGO_ENABLED=0 go install -ldflags '-s -w' -tags 'no_btrfs no_zfs no_devmapper' \
    "$module/containerd@$version" "$module/ctr@$version" "$module/containerd-shim-runc-v2@$version" >"$work/log" 2>&1 || {
    tail -50 "$work/log" >&2
    exit 1
}
mv "$work/bin" "$out"
