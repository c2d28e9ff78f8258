#!/usr/bin/env bash
# Runs this module's programs and tests on the kernels of
# internal/vmtest/kernels.yaml, in virtual machines, and closes with
# `total: N passed, N failed, N skipped`.
#
#   KERNELS       names of kernels; default: those that the matrix runs by default
#   KERNELS_FULL  1: every test, also those that take an emulated machine minutes
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

runner=$(mktemp)
trap 'rm -f "$runner"' EXIT
scripts/go.sh build -o "$runner" ./internal/vmtest/cmd/vmtest
arguments=(-go "$repo/scripts/go.sh" -out out/test-kernel -cache "$cache/kernels" -kernels "${KERNELS:-}")
[ "${KERNELS_FULL:-}" != 1 ] || arguments+=(-full)
"$runner" "${arguments[@]}" "$@"
