# shellcheck shell=bash
# Sourced by other scripts: trees of unpacked Debian packages, which nothing is
# installed from.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# packages_of NAME… prints the packages that they depend on, and themselves.
packages_of() {
	apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
		--no-enhances "$@" | grep '^[a-z0-9]' | grep -vE '^(debconf|dpkg|perl|install-info|cdebconf)' | sort -u
}

# unpack_packages NAME… sets $root to a tree with the packages and all that they
# depend on, which is made once for each list of versions.
unpack_packages() {
	local list urls
	list=$(packages_of "$@")
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
