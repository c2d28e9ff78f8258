#!/usr/bin/env bash
# Rebuilds the BPF objects and their Go bindings beside the packages that own
# them: every //go:generate line of every package, compiled by clang-19. The
# compile flags stand in those lines.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

have clang-19 || die "clang-19 is not installed (scripts/ensure-packages.sh generate)"
mapfile -t packages < <(grep -rl --include='*.go' '^//go:generate ' --exclude-dir=out --exclude-dir=.git . | xargs -r -n 1 dirname | sort -u)
[ "${#packages[@]}" -gt 0 ] || die "no package has a //go:generate line: nothing to generate"
scripts/go.sh generate "${packages[@]}"
