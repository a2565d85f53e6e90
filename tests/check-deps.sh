#!/bin/bash
# Checks the direction of dependencies (docs/ARCHITECTURE.md): processes → libraries → api.
#
# Every workspace crate has the list of the workspace crates it may use, and some crates from outside may be used,
# directly or through others, only by the workspace crates named here.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
fail() {
    echo "check-deps: $*" >&2
    failed=1
}
export CARGO_TERM_COLOR=never
metadata=$(cargo metadata --format-version 1 --no-deps --locked)
members=$(jq -r '.packages[].name' <<<"$metadata" | sort)

# 1. Which workspace crates a workspace crate may use directly, tests included.
allowed() {
    case $1 in
        api) echo ;;
        telemetry) echo ;;
        # telemetry::blocking is the only door to the blocking threads. e2e starts the servers of the libraries' tests;
        # what is shipped never reaches it (below).
        blobstore) echo api e2e telemetry ;;
        catalog) echo api e2e ;;
        estargz | upstream) echo api ;;
        convert) echo api estargz ;;
        firstlight) echo api blobstore catalog convert e2e estargz telemetry upstream ;;
        firstlight-snapshotter) echo api estargz telemetry upstream ;;
        e2e) echo api estargz ;;
        bench) echo api e2e ;;
        *) fail "crate $1 has no allow-list in tests/check-deps.sh" ;;
    esac
}
while read -r crate uses; do
    [[ " $(allowed "$crate") " == *" $uses "* ]] || fail "$crate must not depend on $uses"
done < <(jq -r --arg members "$members" '($members | split("\n")) as $names | .packages[] | .name as $name | .dependencies[]
    | select(.path != null) | .name | select(. as $d | $names | index($d)) | "\($name) \(.)"' <<<"$metadata")
for crate in $members; do allowed "$crate" >/dev/null; done

# 2. Which workspace crates may reach a crate from outside in what they ship (no dev-dependencies).
reaches() { # CRATE OUTSIDE: whether CRATE's own tree, without other workspace crates' share, holds OUTSIDE
    cargo tree --locked -p "$1" -e normal --prefix none --no-dedupe 2>/dev/null | cut -d' ' -f1 | grep -qx "$2"
}
direct() { # CRATE OUTSIDE
    jq -e --arg crate "$1" --arg outside "$2" '.packages[] | select(.name == $crate) | .dependencies[]
        | select(.name == $outside and .kind == null)' <<<"$metadata" >/dev/null
}
only_direct() { # OUTSIDE CRATE...: nobody else names OUTSIDE
    local outside=$1 crate
    shift
    for crate in $members; do
        [[ " $* " == *" $crate "* ]] || ! direct "$crate" "$outside" || fail "$crate must not use $outside (only: $*)"
    done
}
never() { # CRATE OUTSIDE...: CRATE does not reach OUTSIDE at all
    local crate=$1 outside
    shift
    grep -qx "$crate" <<<"$members" || return 0
    for outside in "$@"; do
        ! reaches "$crate" "$outside" || fail "$crate must not reach $outside"
    done
}
only_direct sqlx catalog
only_direct aws-sdk-s3 blobstore
only_direct aws-config blobstore
only_direct aws-smithy-http-client blobstore
only_direct axum firstlight
only_direct reqwest upstream
only_direct clap firstlight firstlight-snapshotter bench
never api tokio tracing hyper reqwest sqlx libdeflater rustix
never estargz tokio tracing hyper reqwest sqlx
never convert tokio tracing hyper reqwest sqlx
never blobstore sqlx reqwest e2e aws-lc-rs
never catalog reqwest aws-sdk-s3 e2e
never upstream sqlx aws-sdk-s3
never firstlight-snapshotter sqlx aws-sdk-s3 axum

exit $failed
