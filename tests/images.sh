#!/bin/bash
# Builds the test images and a docker-registry storage tree that holds them.
#
#   tests/images.sh OUT
#
# OUT/registry is the storage tree (served read-only by every test), OUT/oci the OCI layout it was pushed from.
# Nothing is fetched but Debian packages. Takes about a minute; OUT appears only when it is complete.
#
#   library/tiny    busybox, two layers, one of them with a single directory
#   library/base    mmdebstrap minbase
#   library/python  base + four layers: python3, odd files (whiteouts, hardlinks, xattrs, capabilities, setuid,
#                   devices, fifo, replaced files), one layer of about 156 bytes, an opaque directory
#   tags            latest (OCI), docker (Docker v2 schema 2), and for tiny: multi (OCI index of amd64 and arm64),
#                   multi-docker (Docker manifest list), zstd (layers in zstd)
set -euo pipefail

out=$(realpath -m "$1")
work=$(mktemp -d "${TMPDIR:-/tmp}/firstlight-images.XXXXXX")
registry_pid=
finish() {
    [ -z "$registry_pid" ] || kill "$registry_pid" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
cd "$work"

oci=$work/oci
export SOURCE_DATE_EPOCH=1700000000
tar() { command tar --format=pax --numeric-owner --sort=name "$@"; }
layer() { # IMAGE TAR: adds a hand-made tar as a layer
    umoci raw add-layer --image "$oci:$1" --history.created_by "$2" "$2" >/dev/null
}
in_root() { # ROOT COMMAND: runs in the tree with its own /proc and mounts
    unshare --mount --pid --fork --kill-child sh -c \
        'mount -t proc proc "$1/proc" && exec chroot "$1" /bin/sh -ec "$2"' sh "$1" "$2" >>"$work/log" 2>&1 \
        || { tail -50 "$work/log" >&2; return 1; }
}
apt_install='export DEBIAN_FRONTEND=noninteractive; apt-get -qq -y --no-install-recommends install'

umoci init --layout "$oci" >/dev/null

# tiny: a static busybox from its Debian package.
(mkdir deb && cd deb && chmod 777 . && apt-get -qq download busybox-static >/dev/null 2>&1 && dpkg-deb -x ./*.deb ../busybox)
mkdir -p tiny/bin tiny/etc tiny/tmp tiny/proc tiny/sys tiny/dev tiny/usr/bin
cp busybox/bin/busybox tiny/bin/busybox
for tool in sh ls cat echo id stat sha256sum find env sleep true; do ln -s busybox "tiny/bin/$tool"; done
chmod 1777 tiny/tmp
echo 'root:x:0:0:root:/:/bin/sh' >tiny/etc/passwd
echo 'root:x:0:' >tiny/etc/group
tar -C tiny --owner=0 --group=0 --mtime=@1700000000 -cf tiny.tar .
mkdir -p empty/srv
tar -C empty --format=ustar --owner=0 --group=0 --mtime=@1700000000 -cf directory.tar srv
umoci new --image "$oci:tiny"
layer tiny tiny.tar
layer tiny directory.tar
umoci config --image "$oci:tiny" --config.cmd /bin/sh --config.env PATH=/bin:/usr/bin --architecture amd64 --os linux >/dev/null

# base: a Debian root without manual pages and translations.
mmdebstrap --quiet --variant=minbase --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' bookworm base.tar >>"$work/log" 2>&1 || { tail -50 "$work/log" >&2; exit 1; }
umoci new --image "$oci:base"
layer base base.tar
umoci config --image "$oci:base" --config.cmd /bin/bash --config.env PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
    --architecture amd64 --os linux >/dev/null

# python: the changes of two apt runs and of a third script, each repacked as a layer.
umoci tag --image "$oci:base" python
umoci unpack --image "$oci:python" bundle >/dev/null
root=$work/bundle/rootfs
repack() { umoci repack --refresh-bundle --image "$oci:python" --history.created_by "$1" bundle >/dev/null; }

cp /etc/resolv.conf "$root/etc/resolv.conf"
in_root "$root" "apt-get -qq update; $apt_install python3 ca-certificates; apt-get clean"
repack 'apt-get install python3'

in_root "$root" "$apt_install iputils-ping attr libcap2-bin; apt-get clean; rm -rf /var/lib/apt/lists
    mkdir -p /srv/odd/replaced-by-file /srv/odd/deep/er /srv/odd/gone
    echo first >/srv/odd/hard-a; ln /srv/odd/hard-a /srv/odd/hard-b; ln /srv/odd/hard-a /srv/odd/deep/hard-c
    echo attribute >/srv/odd/attributes; setfattr -n user.firstlight -v 'a value' /srv/odd/attributes
    cp /bin/true /srv/odd/setuid; chown 1000:1000 /srv/odd/setuid; chmod 6755 /srv/odd/setuid
    cp /bin/true /srv/odd/capable; setcap cap_net_raw,cap_net_bind_service+ep /srv/odd/capable
    mknod /srv/odd/char c 1 3; mknod /srv/odd/block b 7 0; mkfifo /srv/odd/fifo
    : >/srv/odd/empty; : >'/srv/odd/name with spaces and ümlauts'
    head -c 9000000 /dev/urandom >/srv/odd/random; head -c 5000000 /dev/zero >/srv/odd/zeros
    ln -s ../odd/hard-a /srv/odd/symlink; ln -s /nowhere /srv/odd/dangling
    echo x >/srv/odd/gone/file; echo y >/srv/odd/deep/er/file
    touch -d '2001-02-03 04:05:06.789123456 UTC' /srv/odd/empty; touch -d '1969-12-31 23:00:00 UTC' /srv/odd/hard-a
    long=\$(head -c 180 /dev/zero | tr '\\0' n); mkdir -p /srv/odd/\$long; echo long >/srv/odd/\$long/\$long
    chown -R 70000:80000 /srv/odd/deep; chmod 2750 /srv/odd/deep"
repack 'odd files'

# Whiteouts of a file and a directory, a file replaced, a directory replaced by a file and by a symlink.
in_root "$root" "rm -rf /srv/odd/gone /srv/odd/replaced-by-file /srv/odd/dangling /usr/share/doc/attr
    echo now a file >/srv/odd/replaced-by-file; echo second >/srv/odd/hard-b; chmod 600 /srv/odd/attributes
    rm /etc/debian_version; echo firstlight >/etc/debian_version; rm -f /etc/resolv.conf"
repack 'replaced and removed'

# A layer of about 156 bytes, then an opaque directory.
layer python directory.tar
mkdir -p opaque/srv/odd/deep
: >opaque/srv/odd/deep/.wh..wh..opq
echo only this >opaque/srv/odd/deep/file
tar -C opaque --owner=0 --group=0 --mtime=@1700000000.5 -cf opaque.tar srv
layer python opaque.tar
umoci config --image "$oci:python" --config.cmd python3 --config.workingdir / >/dev/null

# A second platform for the index: the same files under another architecture.
umoci tag --image "$oci:tiny" tiny-arm64
umoci config --image "$oci:tiny-arm64" --architecture arm64 --config.label platform=arm64 >/dev/null
cp -r "$oci" "$work/multi"
index() { # KIND-OF-INDEX AMD64-DESCRIPTOR ARM64-DESCRIPTOR: prints an index
    jq -cn --arg type "$1" --argjson a "$2" --argjson b "$3" '{schemaVersion: 2, mediaType: $type,
        manifests: [$a + {platform: {architecture: "amd64", os: "linux"}}, $b + {platform: {architecture: "arm64", os: "linux"}}]}'
}
descriptor() { # TAG: the manifest's descriptor in the layout, without annotations
    jq -c --arg tag "$1" '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == $tag) | {mediaType, digest, size}' "$oci/index.json"
}
index application/vnd.oci.image.index.v1+json "$(descriptor tiny)" "$(descriptor tiny-arm64)" >multi.json
digest=$(sha256sum <multi.json | cut -d' ' -f1)
cp multi.json "$work/multi/blobs/sha256/$digest"
jq -cn --arg digest "sha256:$digest" --argjson size "$(stat -c %s multi.json)" '{schemaVersion: 2, manifests: [{mediaType:
    "application/vnd.oci.image.index.v1+json", $digest, $size, annotations: {"org.opencontainers.image.ref.name": "multi"}}]}' >"$work/multi/index.json"
skopeo copy -q --dest-compress-format zstd "oci:$oci:tiny" "oci:$work/zstd:tiny"

# Push all to a registry whose storage tree is the result.
port=$(perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport')
cat >registry.yml <<YML
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:$port"}
YML
docker-registry serve registry.yml >>"$work/log" 2>&1 &
registry_pid=$!
perl -MIO::Socket::INET -e 'for (1..3000) { exit 0 if IO::Socket::INET->new($ARGV[0]); select(undef, undef, undef, 0.01) } exit 1' "127.0.0.1:$port"
push() { skopeo copy -q --dest-tls-verify=false "$@"; }
at=docker://127.0.0.1:$port/library
for image in tiny base python; do
    push "oci:$oci:$image" "$at/$image:latest"
    push --format v2s2 "oci:$oci:$image" "$at/$image:docker"
done
push --all "oci:$work/multi:multi" "$at/tiny:multi"
push --all --format v2s2 "oci:$work/multi:multi" "$at/tiny:multi-docker"
push "oci:$work/zstd:tiny" "$at/tiny:zstd"
kill "$registry_pid"
wait "$registry_pid" 2>/dev/null || true
registry_pid=

mkdir -p "$(dirname "$out")"
rm -rf "$out" "$out.new"
mkdir "$out.new"
mv registry oci "$out.new/"
mv "$out.new" "$out"
