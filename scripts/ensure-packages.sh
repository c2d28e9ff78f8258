#!/usr/bin/env bash
# ensure-packages.sh GROUP… installs, by apt-get, the Debian or Ubuntu packages
# of each GROUP that this machine lacks, and says which. Groups: test, bench,
# tools, test-kernel, kind, kind-node, generate, lint.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# packages GROUP prints "what shows that it is there" and "the package", a line
# each. What shows it is a command of PATH or, with a slash, a file.
packages() {
	local fetching='curl curl
unzip unzip
/etc/ssl/certs/ca-certificates.crt ca-certificates'
	case $1 in
	test) printf '%s\n' "$fetching" 'iptables iptables' 'dig bind9-dnsutils' 'dnsmasq dnsmasq-base' ;;
	bench) printf '%s\n' "$fetching" 'iptables iptables' ;;
	tools) printf '%s\n' "$fetching" ;;
	test-kernel) printf '%s\n' "$fetching" 'qemu-system-x86_64 qemu-system-x86' \
		'/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring' ;;
	kind) printf '%s\n' 'dockerd docker.io' 'iptables iptables' 'ip iproute2' ;;
	kind-node) printf '%s\n' 'mmdebstrap mmdebstrap' '/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring' ;;
	generate) printf '%s\n' "$fetching" 'clang-19 clang-19' 'llvm-strip-19 llvm-19' 'protoc protobuf-compiler' \
		'/usr/include/google/protobuf/any.proto libprotobuf-dev' ;;
	lint) printf '%s\n' "$fetching" 'clang-format-19 clang-format-19' 'shellcheck shellcheck' ;;
	*) die "ensure-packages.sh: no group is named $1" 2 ;;
	esac
}

# present WITNESS looks for a file, or for a command also where root's tools are
# (a plain user's PATH lacks /usr/sbin).
present() {
	case $1 in
	/*) [ -e "$1" ] ;;
	*) PATH=$PATH:/usr/sbin:/sbin have "$1" ;;
	esac
}

missing() {
	local group witness package
	for group in "$@"; do
		packages "$group"
	done | sort -u | while read -r witness package; do
		present "$witness" || echo "$package"
	done
}

apt() {
	DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null >&2
}

# unknown PACKAGE… prints those of which apt's lists have no version.
unknown() {
	local package policy
	for package in "$@"; do
		policy=$(apt-cache policy "$package" 2>/dev/null)
		[[ $policy =~ Candidate:\ [^\(] ]] || echo "$package"
	done
}

update_lists() {
	apt update || die "apt-get update failed; needed for: ${lacking[*]}"
}

install_all() {
	apt install -y --no-install-recommends "$@"
}

for group in "$@"; do
	packages "$group" >/dev/null
done
mapfile -t lacking < <(missing "$@")
[ "${#lacking[@]}" -gt 0 ] || exit 0

have apt-get || die "these packages are missing, and there is no apt-get to install them: ${lacking[*]}"
[ "$(id -u)" -eq 0 ] || die "these packages are missing, and installing them needs root: ${lacking[*]}"
note "installing packages: ${lacking[*]}"
if [ -n "$(unknown "${lacking[@]}")" ]; then
	update_lists
	nowhere=$(unknown "${lacking[@]}")
	[ -z "$nowhere" ] || die "apt has no package $(paste -sd ' ' <<<"$nowhere") (on Ubuntu it is in universe)"
elif install_all "${lacking[@]}"; then
	exit 0
else
	note "apt's lists may be old: updating them once"
	update_lists
fi
install_all "${lacking[@]}" || die "apt-get could not install: ${lacking[*]}"
