#!/usr/bin/env bash
# Runs the suite of simulated pods under a real etcd, kube-apiserver and istiod, and
# closes with `total: N passed, N failed, N skipped`. What is missing of the control
# plane is built first.
#
#   RUN              specs to run, a regular expression; default all
#   REPEAT           how often, each time under a control plane of its own; default once
#   LABELS           labels of specs to run, in ginkgo's form; '!waypoint' needs no Envoy
#   DUOMESH_OUTAGE   how long istiod is away in the outage specs, default 15s
#   DUOMESH_CHANGES  how many changes are measured, default 30
#   DUOMESH_EXPEDITE anything: as in test.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A test that skips for one of these fails: without them nothing would be proved.
export DUOMESH_PROMISE=${DUOMESH_PROMISE-root,cgroup2,BPF}

exports=$(scripts/controlplane.sh env)
eval "$exports"
export DUOMESH_OUT=$repo/out/test-istiod
runner=$(mktemp)
trap 'rm -f "$runner"' EXIT
scripts/go.sh build -o "$runner" ./internal/testsum/cmd/testsum
repeat=${REPEAT:-1}
[[ $repeat =~ ^[1-9][0-9]*$ ]] || die "REPEAT=$repeat: must be a number from 1" 2
# suite DIR runs the suite once, and keeps its reports in DIR.
suite() { "$runner" -go scripts/go.sh -out "$1" -run "${RUN:-}" -labels "${LABELS:-}" -timeout 40m ./e2e/istiod; }
if [ "$repeat" -eq 1 ]; then
	suite "$DUOMESH_OUT"
	exit
fi
mkdir -p "$DUOMESH_OUT"
log=$DUOMESH_OUT/repeated.log
: >"$log"
status=0
for ((i = 1; i <= repeat; i++)); do
	section "run $i of $repeat" suite "$DUOMESH_OUT/$i" 2>&1 | tee -a "$log" || status=1
done
totals "$log"
exit "$status"
