#!/usr/bin/env bash
# Runs the suite of a real cluster: makes a kind cluster, puts istiod and duomesh into
# it, runs the specs, and takes it away again. It closes with `total: N passed,
# N failed, N skipped`. With KUBECONFIG set it runs on that cluster, as it is.
#
#   RUN        specs to run, a regular expression; default all
#   LABELS     specs to run by label, in ginkgo's form; smoke is what CI runs
#   KIND_IP_FAMILY  ipv4 or dual; default dual, that what needs IPv6 runs, too, or ipv4
#              on a machine without IPv6
#   E2E_KEEP   anything: leave the cluster
#   E2E_WHERE_POSSIBLE  anything: a machine on which no cluster can be made is NOT RUN
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. scripts/kind-lib.sh

export DUOMESH_OUT=$repo/out/e2e
mkdir -p "$DUOMESH_OUT"
exports=$(scripts/controlplane.sh env)
eval "$exports"
# has_ipv6 succeeds where this machine has IPv6 and it is not switched off.
has_ipv6() {
	grep -qs . /proc/net/if_inet6 && [ "$(cat /proc/sys/net/ipv6/conf/all/disable_ipv6)" -eq 0 ]
}

runner=$(mktemp)
finish() {
	rm -f "$runner"
	[ -n "${made:-}" ] && [ -z "${E2E_KEEP:-}" ] && scripts/kind-down.sh
	return 0
}
trap finish EXIT
scripts/build.sh ./cmd/duomesh
if [ -z "${KUBECONFIG:-}" ]; then
	kind_program
	if reach && running; then
		die "cluster $cluster is there already: KUBECONFIG=$kubeconfig make e2e runs on it and leaves it; make kind-down removes it"
	fi
	if [ -z "${KIND_IP_FAMILY:-}" ] && ! has_ipv6; then
		note "this machine has no IPv6: the cluster is made with IPv4 alone, and what needs IPv6 is NOT RUN"
		KIND_IP_FAMILY=ipv4
	fi
	export KIND_IP_FAMILY=${KIND_IP_FAMILY:-dual}
	made=yes
	scripts/envoy.sh >/dev/null
	section images scripts/images.sh
	if ! section kind-up scripts/kind-up.sh; then
		[ -n "${E2E_WHERE_POSSIBLE:-}" ] || die "no cluster"
		echo "total: 0 passed, 0 failed, 1 skipped"
		echo "skipped: make e2e: NOT RUN: no cluster could be made on this machine"
		exit 0
	fi
	export KUBECONFIG=$kubeconfig
	section kind-load scripts/kind-load.sh out/images/*.tar
	section istiod scripts/kind-istiod.sh
	export DUOMESH_E2E_OWN=yes # istiod and duomesh may be installed in it anew
	section install bin/duomesh install
fi
# A spec starts a node again: by the engine that the nodes run in, where it answers.
reach || true
scripts/go.sh build -o "$runner" ./internal/testsum/cmd/testsum
DUOMESH_E2E=1 "$runner" -go scripts/go.sh -out "$DUOMESH_OUT" -run "${RUN:-}" -labels "${LABELS:-}" -timeout 180m ./e2e/kind
