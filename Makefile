# Perseid. "make help" lists the targets; they work on a fresh clone.

GO        ?= go
PKGS      ?= ./...
FUZZ      ?= Fuzz
FUZZTIME  ?= 2m
BENCH     ?= .
BENCHTIME ?= 1s
RUN_FLAGS ?= -data target/data

# The load and the faults of make e2e: scripts/e2e/chaosconfig_test.go has the names.
CHAOS ?=

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X github.com/perseid-im/perseid/internal/obs.version=$(VERSION)

export PKGS

.DEFAULT_GOAL := help
.PHONY: help build run stop test race vet fuzz lint proto proto-check bench e2e clean

help: ## list the targets and variables
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "variables: PKGS=$(PKGS) FUZZ=$(FUZZ) FUZZTIME=$(FUZZTIME) BENCH=$(BENCH) BENCHTIME=$(BENCHTIME) RUN_FLAGS=\"$(RUN_FLAGS)\" CHAOS=\"$(CHAOS)\""

build: ## build all programs into target/, their documented TOML beside them
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o target/ ./cmd/...
	@cp cmd/*/*.toml target/

run: build ## run everything in one process; Ctrl-C or "make stop" ends it
	@echo $$$$ > target/perseid.pid; exec target/perseid run $(RUN_FLAGS)

stop: ## stop what runs from target/, by its pid file
	@for file in target/*.pid; do \
	  [ -e "$$file" ] || continue; \
	  pid=$$(cat "$$file"); name=$$(basename "$$file" .pid); \
	  ours() { case "$$(readlink "/proc/$$pid/exe")" in "$(CURDIR)/target/$$name"*) return 0 ;; esac; return 1; }; \
	  if ours; then \
	    kill -TERM "$$pid"; \
	    left=600; while ours && [ $$left -gt 0 ]; do sleep 0.1; left=$$((left - 1)); done; \
	    if ours; then echo "stop: $$name (pid $$pid) still runs after a minute" >&2; exit 1; fi; \
	    echo "stop: $$name stopped"; \
	  fi; \
	  rm -f "$$file"; \
	done

test: ## install and start real Redis, Kafka ..., then go vet and all tests with the race detector
	@scripts/test.sh

race: ## go test -race on PKGS, without set-up: what the machine lacks is skipped
	$(GO) test -race -shuffle=on $(PKGS)

vet: ## go vet on PKGS
	$(GO) vet $(PKGS)

fuzz: ## run each fuzz target whose name matches FUZZ for FUZZTIME
	@grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' cmd internal pkg | grep -E 'func .*$(FUZZ)' | sort | \
	while IFS=: read -r file target; do \
	  echo "== $$(dirname "$$file") $${target#func }"; \
	  $(GO) test -run='^$$' -fuzz="^$${target#func }\$$" -fuzztime=$(FUZZTIME) -parallel=2 "./$$(dirname "$$file")" </dev/null || exit 1; \
	done

lint: ## golangci-lint on PKGS (installed on first use), shellcheck
	@scripts/lint.sh

proto: ## generate the Go code of api/
	@scripts/proto.sh

proto-check: ## fail if the committed code of api/ is not what its .proto files give
	@scripts/proto.sh --check

bench: ## run the benchmarks that match BENCH
	$(GO) test -run='^$$' -bench='$(BENCH)' -benchtime=$(BENCHTIME) -benchmem $(PKGS)

e2e: ## only the tests of whole systems: real processes, real servers; its run of faults writes scripts/e2e/results/chaos.md
	@PERSEID_TEST_CHAOS='long $(CHAOS)' PKGS=./scripts/e2e/... scripts/test.sh -v -timeout=60m

clean: stop ## stop what runs and empty target/
	@find target -mindepth 1 ! -name README.md -delete
