#!/usr/bin/env bash
# Builds the container images into out/images/*.tar, without a container engine: our
# static programs, Debian's curl and C library, and istiod and Envoy where they are
# in the cache. The same inputs make the same digests. TAG chooses the tag.
# With `ambient` it builds those of Istio Ambient's nodes instead, into
# out/images/ambient/: istio-cni and ztunnel, of the programs that ISTIO_CNI_BIN,
# INSTALL_CNI_BIN and ZTUNNEL_BIN name.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. scripts/debian-lib.sh

tag=${TAG:-0.1.0}
bin=out/images/bin
mkdir -p "$bin"
root=

case ${1:-} in
ambient)
	for v in ISTIO_CNI_BIN INSTALL_CNI_BIN ZTUNNEL_BIN; do
		[ -x "${!v:-}" ] || die "$v=${!v:-} is no program" 2
	done
	# The same as in a node's own images: it is fetched once.
	unpack_packages iptables nftables conntrack iproute2
	install -D "$ISTIO_CNI_BIN" out/images/ambient/bin/istio-cni
	install -D "$INSTALL_CNI_BIN" out/images/ambient/bin/install-cni
	scripts/go.sh run ./internal/images/cmd/images -bin out/images/ambient/bin -root "$root" -ztunnel "$ZTUNNEL_BIN" -tag "$tag" -o out/images/ambient
	exit
	;;
"") ;;
*) die "unknown argument $1: want ambient, or none" 2 ;;
esac

packages=(duomesh-agent duomesh-cni)
[ ! -d cmd/duomesh-waypoint ] || packages+=(duomesh-waypoint)
for p in "${packages[@]}"; do
	scripts/go.sh build -trimpath -buildvcs=false -ldflags "-s -w" -o "$bin/" "./cmd/$p"
done
scripts/go.sh build -trimpath -buildvcs=false -ldflags "-s -w" -o "$bin/" ./internal/images/cmd/fortio

have apt-get && unpack_packages curl busybox-static libc6 libgcc-s1
istiod=${ISTIOD_BIN:-$(find "$cache/controlplane" -name istiod -type f 2>/dev/null | sort | tail -n 1)}
envoy=${ENVOY_BIN:-$cache/envoy/current/envoy}
[ -x "$envoy" ] || envoy=
scripts/go.sh run ./internal/images/cmd/images -bin "$bin" -root "$root" -istiod "$istiod" -envoy "$envoy" -tag "$tag" -o out/images
