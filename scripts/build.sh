#!/usr/bin/env bash
# Builds the commands, or those packages that are named, into bin/, static, with the
# commit in them.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Not where git is missing, or refuses a checkout that somebody else owns.
stamp=false
git status --porcelain >/dev/null 2>&1 && stamp=true

mkdir -p bin
scripts/go.sh build -buildvcs=$stamp -trimpath -o bin/ "${@:-./cmd/...}"
