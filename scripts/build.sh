#!/usr/bin/env bash
# Builds the commands into bin/, static, with the commit in them.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir -p bin
scripts/go.sh build -trimpath -o bin/ ./cmd/...
