#!/usr/bin/env bash
# Prints the path of a go command that can build this module: one that is
# installed and knows toolchains (Go 1.21 or later), else the release pinned
# here, fetched once into the cache. Speaks on stderr.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# SHA-256 of Go $GO_RELEASE as module proxies serve it: the zip of the module
# golang.org/toolchain.
GO_SHA256_amd64=30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7
GO_SHA256_arm64=02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99
DEFAULT_GOPROXY=https://proxy.golang.org

# usable GO succeeds when GO is Go 1.21 or later.
usable() {
	local version
	version=$(cd / && GOTOOLCHAIN=local "$1" version 2>/dev/null) || return 1
	[[ $version =~ go1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= 21))
}

# installed prints the first usable go of PATH and of the place where the
# official archive puts it (sudo often drops that one from PATH).
installed() {
	local go
	for go in "$(command -v go || true)" /usr/local/go/bin/go; do
		if [ -n "$go" ] && usable "$go"; then
			echo "$go"
			return
		fi
	done
	return 1
}

# proxies prints the module proxies to ask, one a line, as the go command would
# find them: the environment, go's own env file, the public default.
proxies() {
	local list=${GOPROXY:-} file=${XDG_CONFIG_HOME:-$HOME/.config}/go/env
	if [ -z "$list" ] && [ -r "$file" ]; then
		list=$(sed -n 's/^GOPROXY=//p' "$file" | tail -n 1)
	fi
	tr '|,' '\n' <<<"${list:-$DEFAULT_GOPROXY}" | grep -vxE 'direct|off|' || true
}

download() {
	if have curl; then
		curl -fsSL --retry 2 -o "$2" "$1"
	elif have wget; then
		wget -q -O "$2" "$1"
	else
		die "fetching Go needs curl or wget: neither is installed"
	fi
}

unpack() {
	if have unzip; then
		unzip -q "$1" -d "$2"
	elif have python3; then
		python3 -m zipfile -e "$1" "$2"
	else
		die "unpacking Go needs unzip or python3: neither is installed"
	fi
}

# fetch VERSION SHA256 ZIP asks each proxy in turn for the toolchain.
fetch() {
	local proxy url
	while read -r proxy; do
		url=${proxy%/}/golang.org/toolchain/@v/$1.zip
		note "fetching Go $GO_RELEASE from $url"
		download "$url" "$3" || continue
		if echo "$2  $3" | sha256sum --check --quiet >/dev/null 2>&1; then
			return
		fi
		note "what $proxy sent is not the Go $GO_RELEASE pinned by SHA-256; not used"
	done < <(proxies)
	die "Go 1.21 or later is not installed and Go $GO_RELEASE could not be fetched from a module proxy (GOPROXY names it; default $DEFAULT_GOPROXY)"
}

# fetched prints the cached go of the pinned release, fetching it when needed.
fetched() {
	local arch sha version home scratch
	case $(uname -m) in
	x86_64) arch=amd64 sha=$GO_SHA256_amd64 ;;
	aarch64) arch=arm64 sha=$GO_SHA256_arm64 ;;
	*) die "no Go is pinned for $(uname -m); install Go 1.21 or later" ;;
	esac
	version=v0.0.1-go$GO_RELEASE.linux-$arch
	home=$cache/go/go$GO_RELEASE.linux-$arch
	if [ ! -x "$home/bin/go" ]; then
		mkdir -p "$cache/go"
		scratch=$(mktemp -d "$cache/go/fetch.XXXXXX")
		# shellcheck disable=SC2064 # the directory is known now, and local
		trap "rm -rf '$scratch'" EXIT
		fetch "$version" "$sha" "$scratch/go.zip"
		unpack "$scratch/go.zip" "$scratch"
		chmod -R a+x "$scratch/golang.org/toolchain@$version/bin" "$scratch/golang.org/toolchain@$version/pkg/tool"
		# Two that fetch at once: the first to arrive stays.
		mv -T "$scratch/golang.org/toolchain@$version" "$home" 2>/dev/null || [ -x "$home/bin/go" ] ||
			die "put Go $GO_RELEASE into $home: not possible"
		note "Go $GO_RELEASE is in $home"
	fi
	echo "$home/bin/go"
}

installed || fetched
