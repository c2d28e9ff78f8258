#!/usr/bin/env bash
# Builds the container images into out/images/*.tar, without a container engine: our
# static programs, Debian's curl and C library, and istiod and Envoy where they are
# in the cache. The same inputs make the same digests. TAG chooses the tag.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tag=${TAG:-0.1.0}
bin=out/images/bin
mkdir -p "$bin"

packages=(duomesh-agent duomesh-cni)
[ ! -d cmd/duomesh-waypoint ] || packages+=(duomesh-waypoint)
for p in "${packages[@]}"; do
	scripts/go.sh build -trimpath -buildvcs=false -ldflags "-s -w" -o "$bin/" "./cmd/$p"
done
scripts/go.sh build -trimpath -buildvcs=false -ldflags "-s -w" -o "$bin/" ./internal/images/cmd/fortio

# packages_of NAME… prints the packages that they depend on, and themselves.
packages_of() {
	apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
		--no-enhances "$@" | grep '^[a-z0-9]' | grep -vE '^(debconf|dpkg|perl|install-info|cdebconf)' | sort -u
}

# unpack fills $root with the packages of curl and of Envoy's C library, once for
# each list of versions.
unpack() {
	local list urls
	list=$(packages_of curl busybox-static libc6 libgcc-s1)
	# shellcheck disable=SC2086 # one word for each package
	urls=$(cd / && apt-get download --print-uris $list)
	root=$cache/debian/$(sha256sum <<<"$urls" | cut -c1-16)
	[ ! -d "$root" ] || return 0
	note "fetching $(wc -w <<<"$list") Debian packages for the images"
	rm -rf "$root.part" && mkdir -p "$root.part/debs" "$root.part/tree"
	# shellcheck disable=SC2086
	(cd "$root.part/debs" && apt-get -qq -o APT::Sandbox::User=root download $list)
	for deb in "$root.part"/debs/*.deb; do
		dpkg-deb -x "$deb" "$root.part/tree"
	done
	rm -rf "$root.part/debs"
	mv "$root.part/tree" "$root"
	rm -rf "$root.part"
}

root=
have apt-get && unpack
istiod=${ISTIOD_BIN:-$(find "$cache/controlplane" -name istiod -type f 2>/dev/null | sort | tail -n 1)}
envoy=${ENVOY_BIN:-$cache/envoy/current/envoy}
[ -x "$envoy" ] || envoy=
scripts/go.sh run ./internal/images/cmd/images -bin "$bin" -root "$root" -istiod "$istiod" -envoy "$envoy" -tag "$tag" -o out/images
