#!/bin/bash
# Builds nerdctl with Go.
#
#   tests/nerdctl.sh OUT
#
# OUT, a folder with `nerdctl` in it, appears only when it is complete. Takes about a minute.
set -euo pipefail

# The version that the tests are known to pass with. From 2.2 on it is no module that others can build: part of it is only in its repository.
version=v2.1.2
module=github.com/containerd/nerdctl/v2
out=$(realpath -m "$1")
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir bin
{
    go mod init nerdctl
    go mod edit -require "$module@$version"
    CGO_ENABLED=0 go build -mod=mod -ldflags '-s -w' -o bin/nerdctl "$module/cmd/nerdctl"
} >log 2>&1 || {
    tail -50 log >&2
    exit 1
}
mv bin "$out"
