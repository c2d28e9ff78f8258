#!/usr/bin/env bash
# Stops a target that cannot work here, before it installs or builds anything.
# What the kernel can do is found by the programs themselves, by trying.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly usage_error=2

[ "$(uname -s)" = Linux ] || die "duomesh runs on Linux; this is $(uname -s)" "$usage_error"
case $(uname -m) in
x86_64 | aarch64) ;;
*) die "duomesh is built for x86_64 and aarch64; this machine is $(uname -m)" "$usage_error" ;;
esac
[ "$(id -u)" -eq 0 ] || die "make ${1:-this} needs root: it loads eBPF programs and makes network namespaces and cgroups" "$usage_error"
case ${1:-} in
test | test-istiod)
	grep -q ' - cgroup2 ' /proc/self/mountinfo ||
		die "this machine has no mounted cgroup v2, without which nothing of the engine can be tested: mount -t cgroup2 none /sys/fs/cgroup/unified" "$usage_error"
	;;
esac
