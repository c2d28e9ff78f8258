#!/usr/bin/env bash
# Runs golangci-lint on this module. The linter is pinned by tools/lint/go.mod,
# built once (minutes) and kept in the cache.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

package=github.com/golangci/golangci-lint/v2/cmd/golangci-lint
# The Go release is in the key: a linter refuses code newer than the Go that built it.
key=$(cat tools/lint/go.mod tools/lint/go.sum <(scripts/go.sh env GOVERSION) | sha256sum | cut -c1-16)
linter=$cache/lint/golangci-lint-$key
if [ ! -x "$linter" ]; then
	note "building golangci-lint as tools/lint pins it; this takes minutes, once"
	mkdir -p "$cache/lint"
	scripts/go.sh -C tools/lint build -o "$linter.$$" "$package"
	mv "$linter.$$" "$linter"
fi
go=$(scripts/ensure-go.sh)
PATH=$(dirname "$go"):$PATH GOFLAGS=$(scripts/go.sh env GOFLAGS) CGO_ENABLED=0 "$linter" "${@:-run}"
