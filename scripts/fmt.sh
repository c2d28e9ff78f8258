#!/usr/bin/env bash
# Formats the Go and BPF C sources in place. With --check it changes nothing,
# names each file that is not formatted and fails.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

go_sources() {
	find . \( -path ./.git -o -path ./out -o -path ./bin -o -path ./.cache \) -prune -o -name '*.go' -print0
}

c_sources() {
	local dir
	for dir in bpf/mesh bpf/probe; do
		[ ! -d "$dir" ] || find "$dir" -name '*.[ch]' -print0
	done
}

gofmt=$(scripts/go.sh env GOROOT)/bin/gofmt
if [ "${1:-}" != --check ]; then
	go_sources | xargs -0 -r "$gofmt" -w
	c_sources | xargs -0 -r clang-format-19 -i
	exit
fi

status=0
unformatted=$(go_sources | xargs -0 -r "$gofmt" -l)
if [ -n "$unformatted" ]; then
	note "not gofmt-formatted (make fmt mends it):" $'\n'"$unformatted"
	status=1
fi
if ! c_sources | xargs -0 -r clang-format-19 --dry-run -Werror; then
	note "BPF C is not formatted as .clang-format says (make fmt mends it)"
	status=1
fi
exit "$status"
