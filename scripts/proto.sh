#!/usr/bin/env bash
# Generates the Go forms of Istio's workload API and of its CA's from their .proto
# files, which keep their notice (Apache-2.0): internal/istiod/proto.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

have protoc || die "protoc is not installed (scripts/ensure-packages.sh generate)"
base=github.com/duomesh/duomesh/internal/istiod
api=workloadapi/workload.proto security=workloadapi/security/authorization.proto ca=ca/ca.proto
protoc -I internal/istiod/proto --plugin=protoc-gen-go="$(scripts/go.sh tool -n protoc-gen-go)" \
	--go_out=internal/istiod --go_opt=module=$base \
	--go_opt=M$api=$base/workloadapi --go_opt=M$security=$base/workloadapi/security "--go_opt=M$ca=$base/ca;ca" \
	$api $security $ca
