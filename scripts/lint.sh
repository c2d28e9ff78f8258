#!/usr/bin/env bash
# Every check that reads the sources and builds nothing to keep. All of them
# run; each that fails says so and how to mend it.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

shell_scripts() {
	find scripts bpf/include kind -name '*.sh'
	[ ! -e .ci/run ] || echo .ci/run
}

check_shell() {
	shell_scripts | xargs shellcheck -x -P scripts
}

check format "run make fmt" scripts/fmt.sh --check
check shellcheck "change the script as the message says" check_shell
check vet "change the code as the message says" scripts/go.sh vet ./...
check golangci-lint "change the code as the message says; the rules are in .golangci.yml" scripts/golangci-lint.sh run
checked lint
