#!/usr/bin/env bash
# What must hold before a change is merged, short of running the tests: the
# generated files and go.mod are what the sources say, and lint passes.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

check "BPF objects" "run make generate and commit what changed" scripts/verify-objects.sh
check "go.mod" "run go mod tidy and commit go.mod and go.sum" scripts/go.sh mod tidy -diff
check "manifests" "run make manifests and commit deploy/manifests" scripts/manifests.sh --check
check "lint" "see the checks named above" scripts/lint.sh
checked verify
