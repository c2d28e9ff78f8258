#!/usr/bin/env bash
# Builds the container images into out/images/*.tar, without a container engine: our
# static programs, Debian's curl and C library, and istiod and Envoy where they are
# in the cache. The same inputs make the same digests. TAG chooses the tag.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. scripts/debian-lib.sh

tag=${TAG:-0.1.0}
bin=out/images/bin
mkdir -p "$bin"

packages=(duomesh-agent duomesh-cni)
[ ! -d cmd/duomesh-waypoint ] || packages+=(duomesh-waypoint)
for p in "${packages[@]}"; do
	scripts/go.sh build -trimpath -buildvcs=false -ldflags "-s -w" -o "$bin/" "./cmd/$p"
done
scripts/go.sh build -trimpath -buildvcs=false -ldflags "-s -w" -o "$bin/" ./internal/images/cmd/fortio

root=
have apt-get && unpack_packages curl busybox-static libc6 libgcc-s1
istiod=${ISTIOD_BIN:-$(find "$cache/controlplane" -name istiod -type f 2>/dev/null | sort | tail -n 1)}
envoy=${ENVOY_BIN:-$cache/envoy/current/envoy}
[ -x "$envoy" ] || envoy=
scripts/go.sh run ./internal/images/cmd/images -bin "$bin" -root "$root" -istiod "$istiod" -envoy "$envoy" -tag "$tag" -o out/images
