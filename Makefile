# Keelson. `make up` gives a running cluster, `make test` proves it.
SHELL := /bin/bash
export CGO_ENABLED := 0
export GOFLAGS ?= -buildvcs=false
VERSION  := v1.37.2
LDFLAGS  := -s -w -X k8s.io/component-base/version.gitVersion=$(VERSION)+keelson -X k8s.io/component-base/version.gitMajor=1 \
            -X k8s.io/component-base/version.gitMinor=37 -X k8s.io/client-go/pkg/version.gitVersion=$(VERSION)+keelson
WORKERS  ?= 2

.DEFAULT_GOAL := help
.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: deps
deps:
	@hack/deps.sh

.PHONY: build
build: deps ## Build Keelson and the programs its nodes run, into bin/
	@echo "build: node programs" && hack/bundle/build.sh bin
	@echo "build: keelson" && go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: images
images: build ## Build the images that a cluster needs, without any outside registry
	@hack/images.sh bin

.PHONY: up
up: images ## Make a running cluster of one server and two workers, with a demo application
	@bin/keelson up --workers $(WORKERS) --demo

.PHONY: down
down: ## End the cluster and remove all that it had
	@bin/keelson down

.PHONY: test
test: images ## Unit tests, then the end-to-end tests on a real cluster
	@hack/test.sh

.PHONY: unit
unit: ## Unit tests only
	@hack/test.sh unit

.PHONY: presubmit
presubmit: verify lint test ## What CI runs

.PHONY: generate
generate: ## Generate OpenAPI and validators again
	@hack/generate.sh

.PHONY: verify
verify: ## Build and vet every package; check generated code, layers and tidiness
	@hack/verify.sh

.PHONY: lint
lint: ## golangci-lint with the rules of .golangci.yml
	@hack/lint.sh

.PHONY: bench
bench: images ## Measure the figures of docs/performance.md
	@hack/bench.sh
