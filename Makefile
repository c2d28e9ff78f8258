# duomesh: `make help` lists the targets. What a target does is in scripts/.

SHELL := /bin/bash
.DEFAULT_GOAL := help

## bench: run the default comparison and print its table (root; ARGS="…" goes to duomesh bench)
bench: preflight-bench
	scripts/ensure-packages.sh bench tools
	scripts/build.sh
	@scripts/envoy.sh >/dev/null || echo "duomesh: without an Envoy: what needs one is NOT RUN" >&2
	bin/duomesh bench $(ARGS)

## bench-full: run the whole matrix (root; ZTUNNEL_BIN=PATH adds the rows of Ambient)
bench-full: preflight-bench-full
	scripts/ensure-packages.sh bench tools
	scripts/build.sh
	@scripts/envoy.sh >/dev/null || echo "duomesh: without an Envoy: what needs one is NOT RUN" >&2
	bin/duomesh bench --full $(ARGS)

## bench-claims: run the rows that have targets until each is decided, at most 45 minutes (root; ZTUNNEL_BIN=PATH for those against Ambient)
bench-claims: preflight-bench-claims
	scripts/ensure-packages.sh bench tools
	scripts/build.sh
	@scripts/envoy.sh >/dev/null || echo "duomesh: without an Envoy: what needs one is NOT RUN" >&2
	bin/duomesh bench --claims $(ARGS)

## test: run all tests and suites (root; PKG=./dataplane/... RUN=Regexp choose)
test: export PKG := $(PKG)
test: export RUN := $(RUN)
test: preflight-test
	scripts/ensure-packages.sh test tools
	@scripts/envoy.sh >/dev/null || echo "duomesh: without an Envoy: what needs one is NOT RUN" >&2
	scripts/test.sh

## test-istiod: run the scenarios under a real etcd, kube-apiserver and istiod (root; builds them once; RUN=Regexp LABELS='!waypoint' REPEAT=N choose)
test-istiod: export RUN := $(RUN)
test-istiod: export LABELS := $(LABELS)
test-istiod: export REPEAT := $(REPEAT)
test-istiod: preflight-test-istiod
	scripts/ensure-packages.sh test tools
	@scripts/envoy.sh >/dev/null || echo "duomesh: without an Envoy: what needs one is NOT RUN" >&2
	scripts/test-istiod.sh

## test-kernel: run programs, scenarios and providers on other kernels, in virtual machines (KERNELS="…" KERNELS_FULL=1 choose)
test-kernel: export KERNELS := $(KERNELS)
test-kernel: export KERNELS_FULL := $(KERNELS_FULL)
test-kernel: preflight-test-kernel
	scripts/ensure-packages.sh test-kernel
	scripts/test-kernel.sh $(ARGS)

## e2e: run the suite of a real cluster: kind (of both families where the machine has IPv6), istiod, the agents (root; RUN=Regexp LABELS=smoke KIND_IP_FAMILY=ipv4 choose; KUBECONFIG uses yours)
e2e: export RUN := $(RUN)
e2e: export LABELS := $(LABELS)
e2e: preflight-e2e
	scripts/ensure-packages.sh test
	scripts/e2e.sh

## controlplane: put etcd, kube-apiserver, kubectl, istiod and istioctl into the cache, from released images or built (ETCD_BIN=… and so on use yours)
controlplane:
	scripts/controlplane.sh

## tools: put the pinned Envoy into the cache (ENVOY_BIN=… uses yours)
tools:
	scripts/ensure-packages.sh tools
	scripts/envoy.sh

## images: build the container images into out/images/, without a container engine (TAG=…)
images:
	scripts/images.sh

## kind-up: make a kind cluster and print its KUBECONFIG; without Docker or a registry, too (root; KIND_IP_FAMILY=dual)
kind-up: preflight-kind-up
	@scripts/kind-up.sh

## kind-down: remove the kind cluster, and what ran it
kind-down: preflight-kind-down
	@scripts/kind-down.sh

## kind-node-image: make the node image of an air-gapped kind cluster, from Debian packages and tools/ (root)
kind-node-image: preflight-kind-node-image
	@scripts/kind-node-image.sh

## kind-load: put images into the nodes of the kind cluster (IMAGE="out/images/fortio.tar …")
kind-load: preflight-kind-load
	@scripts/kind-load.sh $(IMAGE)

## kind-ambient: put Istio Ambient's ztunnel and istio-cni into the kind cluster, beside duomesh (root; ZTUNNEL_BIN=PATH; ARGS=--remove takes them away)
kind-ambient: preflight-kind-ambient
	@scripts/kind-ambient.sh $(ARGS)

## manifests: write deploy/manifests from the Helm chart
manifests:
	scripts/manifests.sh

## compatibility: run the kernel matrix and write docs/compatibility.md from it
compatibility: preflight-compatibility
	scripts/ensure-packages.sh test-kernel
	scripts/test-kernel.sh -write-compatibility docs/compatibility.md $(ARGS)

## bench-hook: the cost of the hooks, of a hand-off, of the maps and of Apply, by the kernel's own statistics (limits: docs/results/README.md)
bench-hook: preflight-bench-hook
	scripts/ensure-packages.sh bench
	scripts/go.sh test -run '^$$' -bench 'Hook|Getpeername|Datagram|MapMemory' -benchtime 40x ./dataplane/l4
	scripts/go.sh test -run '^$$' -bench 'BenchmarkConnect' -benchtime 100x ./dataplane/l4
	scripts/go.sh test -run '^$$' -bench 'Apply|Grace' -benchtime 20x ./dataplane/l4
	scripts/go.sh test -run '^$$' -bench 'BenchmarkPrograms' -benchtime 40x ./dataplane/l4
	scripts/go.sh test -run '^$$' -bench 'BenchmarkCodecs' -benchtime 40x ./dataplane/l4

## build: build the commands into bin/
build:
	scripts/build.sh

## generate: rebuild the BPF objects and their Go bindings (clang-19)
generate:
	scripts/ensure-packages.sh generate
	scripts/generate.sh

## lint: check formatting, shell scripts and Go code
lint:
	scripts/ensure-packages.sh lint
	scripts/lint.sh

## verify: lint, and check that generated files and go.mod are what the sources say
verify:
	scripts/ensure-packages.sh generate lint
	scripts/verify.sh

## fmt: format the Go and BPF C sources in place
fmt:
	scripts/ensure-packages.sh lint
	scripts/fmt.sh

## clean: remove what build, test and bench left in bin/ and out/
clean:
	rm -rf bin out

## help: list the targets
help:
	@sed -n 's/^## \([a-z-]*\): /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

preflight-%:
	@scripts/preflight.sh $*

.PHONY: bench bench-full bench-claims bench-hook test test-istiod test-kernel e2e controlplane tools images kind-up kind-down kind-node-image kind-load kind-ambient manifests compatibility build generate lint verify fmt clean help
