# Keelson. `make up` gives a running cluster, `make test` proves it.
SHELL := /bin/bash
export CGO_ENABLED := 0
# One build cache for every checkout, and no path of the building machine in a binary.
export GOFLAGS := $(filter-out -trimpath,$(or $(GOFLAGS),-buildvcs=false)) -trimpath
VERSION  := v1.37.2
LDFLAGS  := -s -w -X k8s.io/component-base/version.gitVersion=$(VERSION)+keelson -X k8s.io/component-base/version.gitMajor=1 \
            -X k8s.io/component-base/version.gitMinor=37 -X k8s.io/client-go/pkg/version.gitVersion=$(VERSION)+keelson
WORKERS  ?= 2

.DEFAULT_GOAL := help
.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

.PHONY: deps
deps:
	@hack/deps.sh

.PHONY: build
build: deps ## Build Keelson and the programs its nodes run, into bin/
	@echo "build: node programs" && hack/bundle/build.sh bin
	@echo "build: keelson" && go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/... go.etcd.io/etcd/etcdctl/v3
	@echo "build: etcd" && go build -ldflags '-s -w' -o bin/etcd go.etcd.io/etcd/server/v3

.PHONY: images
images: build ## Build the images that a cluster needs, without any outside registry
	@hack/images.sh bin

.PHONY: ingress
ingress: images ## Build what `keelson addon enable ingress` needs: Traefik, its image and the types of the Gateway API
	@hack/ingress.sh bin

.PHONY: buildkit
buildkit: build ## Build what `keelson image build` needs: BuildKit
	@hack/buildkit.sh bin

.PHONY: up
up: images ## Make a running cluster of one server and two workers, with a demo application
	@bin/keelson up --workers $(WORKERS) --demo

.PHONY: down
down: ## End the cluster and remove all that it had
	@bin/keelson down

.PHONY: dist
dist: images ## A release in dist/: archive, checksums and bill of materials; its install.sh needs no Go
	@hack/dist/dist.sh $(VERSION)

.PHONY: test-vm
test-vm: dist ## The release on a bare Debian 12 with systemd and cgroup v2, in an emulated machine without network
	@hack/vm/test.sh dist/keelson-$(VERSION)-linux-$$(go env GOARCH).tar.gz

.PHONY: test
test: images ## Unit tests, then the end-to-end tests on a real cluster
	@hack/test.sh

.PHONY: unit
unit: ## Unit tests only
	@hack/test.sh unit

.PHONY: presubmit
presubmit: verify lint test conformance-slice ## What CI runs

.PHONY: generate
generate: ## Generate OpenAPI and validators again
	@hack/generate.sh

.PHONY: verify
verify: ## Build and vet every package; check generated code, layers and tidiness
	@hack/verify.sh

.PHONY: vuln
vuln: ## Known vulnerabilities in what we build and nodes run; says so plainly where the database cannot be reached
	@hack/vuln.sh

.PHONY: lint
lint: ## golangci-lint with the rules of .golangci.yml
	@hack/lint.sh

# The conformance suite: FOCUS and SKIP are regular expressions, PROCS how many tests run at once, KUBECONFIG the cluster to test (none:
# one is made and removed), TEST part of a name, COUNT the size of a slice.
PROCS ?= 4
COUNT ?= 40
SUITE = cd conformance && ../bin/conformance/conformance
SUITE_FLAGS = -procs $(PROCS) $(if $(KUBECONFIG),-kubeconfig $(KUBECONFIG))

.PHONY: conformance-build
conformance-build: images
	@conformance/build.sh && conformance/images.sh

.PHONY: conformance
conformance: conformance-build ## Upstream's conformance suite, all of it or what FOCUS selects, with the score
	@$(SUITE) run $(SUITE_FLAGS) $(if $(FOCUS),-focus '$(FOCUS)') $(if $(SKIP),-skip '$(SKIP)')

.PHONY: conformance-ratchet
conformance-ratchet: conformance-build ## The tests of conformance/passing.txt: fails if one is lost
	@$(SUITE) ratchet $(SUITE_FLAGS)

.PHONY: conformance-slice
conformance-slice: conformance-build ## A part of them that touches every SIG, rotated by commit
	@$(SUITE) slice $(SUITE_FLAGS) -count $(COUNT) -seed "$$(git rev-parse HEAD 2>/dev/null)"

.PHONY: conformance-certify
conformance-certify: conformance-build ## All 462 tests in one go, laid out for the CNCF's programme
	@$(SUITE) certify $(SUITE_FLAGS)

.PHONY: conformance-why
conformance-why: conformance-build ## One test (TEST=part of its name) with the cluster's logs of its time beside it
	@$(SUITE) why $(SUITE_FLAGS) -test '$(TEST)'

# KINDS and STAGES are regular expressions that narrow it down.
.PHONY: differential
differential: build ## Send our API server and upstream's the same requests: fails at any difference that is not accepted
	@conformance/upstream.sh etcd kube-apiserver && cd conformance && go run ./differential -kinds '$(KINDS)' -stages '$(STAGES)'

.PHONY: interop
interop: images ## Our parts with upstream's and the other way round, on real clusters
	@conformance/upstream.sh && hack/debian-runtime.sh
	@go test -count=1 -v -timeout 60m -tags interop $(if $(FOCUS),-run 'TestInterop/$(FOCUS)') ./lab/interop

.PHONY: held
held: images ## Take what kubectl prints on a cluster of upstream's parts, for TestHeld of lab/e2e to hold ours against
	@conformance/upstream.sh && hack/e2e.sh bin/e2e
	@go test -count=1 -timeout 30m -tags interop -run TestInterop/AllUpstream ./lab/interop -take

# BENCH_FLAGS are those of apiserver/bench; --pid with the server's and etcd's processes if KUBECONFIG names the cluster to measure.
.PHONY: bench-apiserver
bench-apiserver: ## Our API server beside upstream's, or that of KUBECONFIG alone: throughput, CPU per operation, memory
ifeq ($(KUBECONFIG),)
	@conformance/upstream.sh kube-apiserver etcd
	@go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/apiserver
endif
	@go run ./apiserver/bench $(BENCH_FLAGS)

.PHONY: flood
flood: ## One client sends 10,000 requests a second and holds 5,000 watches FOR=30s: another is served within a second
	@go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/apiserver
	@go test -count=1 -v -timeout 0 ./apiserver/bench -run TestFlood -args -flood.for $(or $(FOR),30s)

.PHONY: bench-scheduler
bench-scheduler: build ## Our scheduler beside upstream's, with scheduler_perf's workloads: CASES=basic,spread NODES=100,1000 ROUNDS=3
	@conformance/upstream.sh etcd kube-apiserver kube-scheduler
	@go run ./scheduler/bench $(if $(CASES),-cases $(CASES)) $(if $(NODES),-nodes $(NODES)) $(if $(ROUNDS),-rounds $(ROUNDS))

.PHONY: bench-controllers
bench-controllers: build ## Our controller manager beside upstream's on our API server with hollow nodes: CASES=deployment,services ROUNDS=3 SCALE=0.1
	@conformance/upstream.sh kube-controller-manager
	@go run ./controllers/bench $(if $(CASES),-cases $(CASES)) $(if $(ROUNDS),-rounds $(ROUNDS)) $(if $(SCALE),-scale $(SCALE))

.PHONY: bench-kubelet
bench-kubelet: images ## Our node agent beside upstream's, each on a cluster of one node: BENCH_FLAGS are those of lab/interop/bench
	@conformance/upstream.sh etcd kubelet
	@go run ./lab/interop/bench $(BENCH_FLAGS)

.PHONY: bench-proxy
bench-proxy: build ## Our service proxy beside kube-proxy in nftables mode: BENCH_FLAGS are those of proxy-lite/bench
	@conformance/upstream.sh kube-proxy
	@go run ./proxy-lite/bench $(BENCH_FLAGS)

.PHONY: traffic
traffic: images ## 200 connections and 500 requests a second on a Service FOR=10m, through updates, scaling and the loss of a node
	@hack/e2e.sh bin/e2e && go test -count=1 -v -timeout 0 -tags e2e ./lab/e2e -run 'TestTraffic|TestNames' -traffic $(or $(FOR),10m)

KILL_FOR ?= 10m
.PHONY: faults
faults: ## Controllers under late watches, failed calls, lost answers and deaths: SEEDS plagues, every promise checked at every revision
	@go test -count=1 -timeout 0 ./controllers/faults -run TestPromises -args -stderrthreshold=FATAL -logtostderr=false -faults.seeds=$(or $(SEEDS),20)

.PHONY: kill-leader
kill-leader: ## Kill the leading controller manager every 10 s for KILL_FOR under churn, and check every promise at every revision
	@go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/controller-manager
	@go test -count=1 -v -timeout 0 ./controllers/faults -run TestKillLeader -args -stderrthreshold=FATAL -logtostderr=false -faults.kill=$(KILL_FOR) -faults.manager=$(CURDIR)/bin/controller-manager

LIFE_KILLS ?= 50
.PHONY: life
life: images ## Kill every process of a cluster LIFE_KILLS times at random points (SEED), and reboot it: all acknowledged data is there each time
	@go test -count=1 -v -timeout 0 -tags e2e ./lab/e2e -run 'TestKillEverything|TestReboot' -args -cluster life -life.kills=$(LIFE_KILLS) -life.seed=$(or $(SEED),1)

E2E = hack/e2e.sh bin/e2e && go test -count=1 -v -timeout 0 -tags e2e ./lab/e2e
.PHONY: churn
churn: images ## PODS=1000 pods of all kinds come and go while agents and containerd are killed: nothing may be left on the node; SEED
	@$(E2E) -run TestNothingLeaks -leak.pods $(or $(PODS),1000) -seed $(or $(SEED),1)

.PHONY: full-node
full-node: images ## A node with 110 probed pods: none may restart or be not Ready FOR=30m; with what its agent needs
	@$(E2E) -run TestFullNode -full.for $(or $(FOR),30m)

.PHONY: by-hand
by-hand: images ## The commands of docs/labs/by-hand.md, in which every part of a cluster is started on its own
	@go test -count=1 -v -timeout 20m -tags e2e ./lab/byhand

.PHONY: upgrade-test
upgrade-test: images ## A cluster that commit OLD (default: 20 back) has made goes on with this build; its pods do not notice
	@OLD=$(OLD) hack/upgrade.sh

FAULTS_FOR ?= 30m
.PHONY: fault-servers
fault-servers: images ## Kill, freeze and cut off the servers of three for FAULTS_FOR under writers and moving pods (SEED repeats a run): linearizable, nothing lost, nobody twice
	@go test -count=1 -v -timeout 0 -tags e2e ./lab/faults -args -faults.for=$(FAULTS_FOR) $(if $(SEED),-faults.seed=$(SEED))

.PHONY: fuzz
fuzz: ## Fuzz decoders, defaults and validation of every kind, for a bounded time
	@go test ./apis -run '^$$' -fuzz FuzzHooks -fuzztime 60s -fuzzminimizetime 2s
	@go test ./apis -run '^$$' -fuzz FuzzDecode -fuzztime 60s -fuzzminimizetime 2s

.PHONY: cis
cis: images ## A cluster held against the CIS Kubernetes Benchmark, a row for each recommendation, with the reasons of exceptions
	@go test -count=1 -v -tags e2e ./lab/e2e -run TestCIS -cluster cis

.PHONY: bench
bench: images ## Measure the figures of docs/performance.md
	@hack/bench.sh
