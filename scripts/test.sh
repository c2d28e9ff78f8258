#!/usr/bin/env bash
# Runs the tests of this module and closes with `total: N passed, N failed,
# N skipped`, then each skip with its reason.
#
#   PKG  packages to test, default ./...
#   RUN  tests and specs to run, a regular expression; default all
#   DUOMESH_EXPEDITE  anything: suites that make worlds have the kernel expedite its grace
#        periods, those of the whole machine, and take two thirds of the time
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A test that skips for one of these fails: without them nothing would be proved.
export DUOMESH_PROMISE=${DUOMESH_PROMISE-root,cgroup2,BPF}

read -ra packages <<<"${PKG:-./...}"
runner=$(mktemp)
trap 'rm -f "$runner"' EXIT
scripts/go.sh build -o "$runner" ./internal/testsum/cmd/testsum
"$runner" -go scripts/go.sh -out out/test -run "${RUN:-}" -timeout 40m "${packages[@]}"
