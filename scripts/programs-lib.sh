# shellcheck shell=bash
# Sourced by other scripts: programs of others, taken out of released images where a
# registry can be reached, else built from the modules in tools/, into the cache. A
# build that is interrupted goes on where it stopped: what is compiled stays in Go's
# own cache, and a program that is whole is not built again.
#
#   DUOMESH_REGISTRY  HOST[:PORT][/PREFIX] to ask in place of docker.io and
#                     registry.k8s.io; `none`: build all
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# pinned MODULE DEPENDENCY is the version in the go.mod of a tools module.
pinned() {
	sed -n "s|^\s*$2 \(v[^ ]*\).*|\1|p" "tools/$1/go.mod" | head -n 1
}

kubernetes=$(pinned kubernetes k8s.io/kubernetes)

# place MODULE is where the programs of a tools module are kept: a directory of
# its own for each state of its go.sum.
place() {
	local sum
	sum=$(cat "tools/$1/go.mod" "tools/$1/go.sum" | sha256sum)
	echo "$cache/$1/${sum:0:16}"
}

version_flags() {
	local p minor flags="-s -w"
	minor=${kubernetes#v1.}
	for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		flags+=" -X $p.gitVersion=$kubernetes -X $p.gitMajor=1 -X $p.gitMinor=${minor%%.*}"
		flags+=" -X $p.gitTreeState=clean -X $p.gitCommit=0000000000000000000000000000000000000000"
		flags+=" -X $p.buildDate=2026-01-01T00:00:00Z"
	done
	echo "$flags"
}

# taker builds the command that takes programs out of images, once, and sets $taker.
taker=
build_taker() {
	[ -z "$taker" ] || return 0
	scripts/go.sh build -o out/tools/released ./internal/images/cmd/released && taker=out/tools/released
}

# take NAME IMAGE PATH TO [OPTION…] takes a program out of a released image; it fails
# where that is not possible, and has said why.
unreached=
take() {
	local name=$1 image=$2 path=$3 to=$4 registry=${DUOMESH_REGISTRY:-} status=0
	local host=${registry:-${image%%/*}}
	[ "$registry" != none ] || return 1
	case " $unreached " in
	*" $host "*) return 1 ;;
	esac
	build_taker || return 1
	note "$name: looking for $image${registry:+ at $registry}"
	"$taker" -image "$image" -path "$path" -mirror "$registry" -o "$to" "${@:5}" >&2 || status=$?
	[ "$status" -ne 4 ] || unreached+=" $host"
	[ "$status" -eq 0 ] || return 1
	note "$name is that of $(cat "$to.image")"
}

# program VARIABLE NAME MODULE PACKAGE TAGS LDFLAGS [IMAGE PATH] takes a program out
# of its released image, or builds it, unless the variable, which may be empty, names
# one.
program() {
	local variable=$1 name=$2 module=$3 package=$4 tags=$5 ldflags=$6 image=${7:-} path=${8:-} to start=$SECONDS
	if [ -n "$variable" ] && [ -n "${!variable:-}" ]; then
		[ -x "${!variable}" ] || die "$variable=${!variable} is no program" 2
		found+=("$variable=${!variable}")
		return
	fi
	to=$(place "$module")/$name
	found+=("$variable=$to")
	[ -x "$to" ] && return
	mkdir -p "$(dirname "$to")"
	if [ -n "$image" ] && take "$name" "$image" "$path" "$to" -static; then
		return
	fi
	note "building $name from tools/$module; the first time this takes minutes"
	scripts/go.sh -C "tools/$module" build -trimpath -tags "$tags" -ldflags "$ldflags" -o "$to.part" "$package" ||
		die "$name could not be built from tools/$module"
	rm -f "$to.image"
	mv "$to.part" "$to"
	note "built $name in $((SECONDS - start)) s: $to"
}

# found collects VARIABLE=PATH of each program.
found=()
