#!/usr/bin/env bash
# Runs the suite of simulated pods under a real etcd, kube-apiserver and istiod, and
# closes with `total: N passed, N failed, N skipped`. What is missing of the control
# plane is built first.
#
#   RUN              specs to run, a regular expression; default all
#   LABELS           labels of specs to run, in ginkgo's form; '!waypoint' needs no Envoy
#   DUOMESH_OUTAGE   how long istiod is away in the outage specs, default 15s
#   DUOMESH_CHANGES  how many changes are measured, default 30
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A test that skips for one of these fails: without them nothing would be proved.
export DUOMESH_PROMISE=${DUOMESH_PROMISE-root,cgroup2,BPF}

exports=$(scripts/controlplane.sh env)
eval "$exports"
export DUOMESH_OUT=$repo/out/test-istiod
runner=$(mktemp)
trap 'rm -f "$runner"' EXIT
scripts/go.sh build -o "$runner" ./internal/testsum/cmd/testsum
"$runner" -go scripts/go.sh -out "$DUOMESH_OUT" -run "${RUN:-}" -labels "${LABELS:-}" ./e2e/istiod
