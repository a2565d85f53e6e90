#!/bin/bash
# Builds the bench's images of Debian packages, as Docker builds and compresses them, into an OCI layout.
#
#   tests/bench/images.sh OUT
#
# OUT appears only when it is complete. Fetches some 600 MB of packages; takes about four minutes.
#
#   python   minbase, two layers of build tools as in Docker's buildpack-deps, python3, a layer of about 150 bytes, an
#            application: six layers; what apt keeps in /var stays, as where a Dockerfile does not remove it
#   nginx    minbase, nginx, its configuration
set -euo pipefail

out=$(realpath -m "$1")

# Daemons write to /etc/docker and /run: they see others there.
if [ -z "${BENCH_IMAGES_WORK:-}" ]; then
    mkdir -p "$(dirname "$out")"
    BENCH_IMAGES_WORK=$(mktemp -d "$out.XXXXXX")
    export BENCH_IMAGES_WORK
    trap 'rm -rf "$BENCH_IMAGES_WORK"; rmdir /sys/fs/cgroup/firstlight-bench /sys/fs/cgroup/*/firstlight-bench 2>/dev/null || true' EXIT
    unshare --mount --propagation private --kill-child -- "$0" "$out"
    exit
fi
work=$BENCH_IMAGES_WORK
cd "$work"
mkdir -p /etc/docker
mount -t tmpfs tmpfs /etc/docker
mount -t tmpfs tmpfs /run
pids=()
finish() {
    kill "${pids[@]}" 2>/dev/null || true
    wait "${pids[@]}" 2>/dev/null || true
    for point in $(awk -v below="$work/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | tac); do
        umount -l "$point" || true
    done
}
trap finish EXIT
quiet() { "$@" >>"$work/log" 2>&1 || { tail -60 "$work/log" >&2; return 1; }; }
until_ok() { # COMMAND: polls for a minute
    for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
    echo "$* never succeeded" >&2
    tail -40 "$work/dockerd.log" >&2
    return 1
}

port=$(perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport')
cat >registry.yml <<YML
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:$port"}
YML
docker-registry serve registry.yml >registry.log 2>&1 &
pids+=($!)
dockerd --data-root "$work/data" --exec-root "$work/x" --pidfile "$work/pid" -H "unix://$work/d.sock" --cgroup-parent /firstlight-bench \
    --bridge=none --iptables=false --ip6tables=false --ip-forward=false >dockerd.log 2>&1 &
pids+=($!)
export DOCKER_HOST=unix://$work/d.sock DOCKER_CONFIG=$work DOCKER_BUILDKIT=0
until_ok docker version

export SOURCE_DATE_EPOCH=1700000000
quiet mmdebstrap --quiet --variant=minbase bookworm base.tar
docker import --change 'CMD ["/bin/bash"]' base.tar base >/dev/null
rm base.tar

apt_install='apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install'
apt_end='rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*'
mkdir python nginx
cat >python/Dockerfile <<DOCKERFILE
FROM base
RUN $apt_install ca-certificates curl gnupg netbase sq wget git mercurial openssh-client subversion procps tzdata
RUN $apt_install autoconf automake bzip2 default-libmysqlclient-dev dpkg-dev file g++ gcc gfortran imagemagick libbz2-dev \
    libc6-dev libcurl4-openssl-dev libdb-dev libevent-dev libffi-dev libgdbm-dev libglib2.0-dev libgmp-dev libjpeg-dev \
    libkrb5-dev liblzma-dev libmagickcore-dev libmagickwand-dev libmaxminddb-dev libncurses5-dev libncursesw5-dev libpng-dev \
    libpq-dev libreadline-dev libsqlite3-dev libssl-dev libtool libwebp-dev libxml2-dev libxslt1-dev libyaml-dev make patch \
    unzip xz-utils zlib1g-dev
RUN $apt_install python3-full python3-dev python3-pip
RUN mkdir -p /srv/app
COPY app.py /srv/app/
CMD ["python3", "/srv/app/app.py"]
DOCKERFILE
echo 'import ssl, json, email, http.client; print("ready")' >python/app.py
cat >nginx/Dockerfile <<DOCKERFILE
FROM base
RUN $apt_install nginx && $apt_end
COPY site.conf /etc/nginx/conf.d/
CMD ["nginx", "-g", "daemon off;"]
DOCKERFILE
echo 'server { listen 8080; root /usr/share/nginx/html; }' >nginx/site.conf

for image in python nginx; do
    at=127.0.0.1:$port/library/$image:latest
    quiet docker build --network host --cgroup-parent /firstlight-bench -t "$at" "$image"
    quiet docker push "$at"
    quiet skopeo copy -q --src-tls-verify=false "docker://$at" "oci:$work/oci:$image"
done
mv oci "$out"
