# The two commands to know: `make run` and `make test`. `make help` lists the rest.
#
# Variables: ARGS (of `apus run`), BENCH (of `apus-bench run`), TEST (of `swift test`), SECONDS_EACH (of fuzzing).

SHELL := /bin/sh
ARGS ?=
BENCH ?=
TEST ?=
SECONDS_EACH ?= 20
APUS := .build/release/apus
SOURCES := Package.swift Sources Tests

.DEFAULT_GOAL := help
.PHONY: help run test bench interop fuzz mutants deep format lint models mesh clean node

help: ## list the targets
	@echo "make TARGET, with TARGET one of:"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

run: node ## build the node and run it in the foreground (ARGS='--mqtt 127.0.0.1:1884')
	@cat scripts/try-next.txt
	@exec $(APUS) run $(ARGS)

test: .packages-build ## build everything in debug and run all tests (TEST='--filter CoreTests')
	swift test $(TEST)

bench: .packages-build .packages-bench node ## measure beside mosquitto, the bare kernel and Proton (BENCH=--quick)
	swift build -c release --product apus-bench
	.build/release/apus-bench run $(BENCH)
	.build/release/apus-bench amqp $(filter --quick,$(BENCH))
	.build/release/apus-bench mesh $(filter --quick,$(BENCH))

interop: .packages-build .packages-interop node ## third-party clients against a real node
	Interop/run.sh

mesh: .packages-build .packages-interop node ## failures and healing of meshes of real nodes
	Interop/mesh/run.sh

models: .packages-models ## check the models of the mesh's rules with TLC
	scripts/models.sh

fuzz: .packages-build ## fuzz each parser for SECONDS_EACH seconds
	Tests/Fuzz/run.sh $(SECONDS_EACH)

mutants: .packages-build ## plant mistakes in the MQTT code that its tests must find
	Tests/Mutants/run.sh

deep: .packages-build ## thread sanitizer, address sanitizer, mutants, five minutes of fuzzing each
	swift test --scratch-path .build-thread --sanitize thread
	LSAN_OPTIONS=suppressions=$(CURDIR)/scripts/leaks.supp swift test --scratch-path .build-address --sanitize address
	Tests/Mutants/run.sh
	Tests/Fuzz/run.sh 300

format: ## format all sources in place
	swift format -i -r $(SOURCES)

lint: ## check the format of all sources and the links of all documents
	swift format lint --strict -r $(SOURCES)
	scripts/links.sh

clean: ## remove everything that was built
	rm -rf .build .build-*

# Builds the node in release.
node: .packages-build
	swift build -c release --product apus

# Installs what is missing; a look at the package database when nothing is.
.PHONY: .packages-build .packages-bench .packages-interop .packages-models .swift
.packages-build: .swift
	@scripts/packages.sh build
.packages-bench:
	@scripts/packages.sh bench
.packages-interop:
	@scripts/packages.sh interop
.packages-models:
	@command -v java >/dev/null || scripts/packages.sh models

.swift:
	@command -v swift >/dev/null || { \
	    echo "There is no swift in PATH: install a toolchain of 6.2 or later, https://www.swift.org/install" >&2; exit 1; }
