# The two commands to know: `make run` and `make test`. `make help` lists the rest.
#
# Variables: ARGS (of `apus run`), BENCH (of `apus-bench run`), TEST (of `swift test`), SECONDS_EACH (of fuzzing),
# SEEDS (how many worlds are simulated), SEED (one of them, with its log), MODELS (names of models).

SHELL := /bin/sh
ARGS ?=
BENCH ?=
TEST ?=
SECONDS_EACH ?= 20
SEEDS ?= 1000
SEED ?=
MODELS ?=
APUS := .build/release/apus
SOURCES := Package.swift Sources Tests

.DEFAULT_GOAL := help
.PHONY: help run test demo bench interop simulate models mesh fuzz mutants deep format lint clean node

help: ## list the targets
	@echo "make TARGET, with TARGET one of:"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

run: node ## build the node and run it in the foreground (ARGS='--mqtt 127.0.0.1:1884')
	@cat scripts/try-next.txt
	@exec $(APUS) run $(ARGS)

test: .packages-build ## build everything in debug and run all tests (TEST='--filter CoreTests')
	swift test $(TEST)

demo: .packages-demo node ## three nodes, three protocols, one node killed while events flow: half a minute
	@APUS=$(APUS) scripts/demo.sh

bench: .packages-build .packages-bench node ## measure beside mosquitto, the bare kernel and Proton (BENCH=--quick)
	swift build -c release --product apus-bench
	.build/release/apus-bench run $(BENCH)
	.build/release/apus-bench amqp $(filter --quick,$(BENCH))
	.build/release/apus-bench mesh $(filter --quick,$(BENCH))
	.build/release/apus-bench tls $(filter --quick,$(BENCH))

interop: .packages-build .packages-interop node ## third-party clients against a real node
	Interop/run.sh

mesh: .packages-build .packages-interop node ## failures and healing of meshes of real nodes
	Interop/mesh/run.sh

models: .packages-models ## check the models of the mesh's rules with TLC (MODELS='Stream StreamLive')
	scripts/models.sh $(MODELS)

fuzz: .packages-build ## fuzz each parser for SECONDS_EACH seconds
	Tests/Fuzz/run.sh $(SECONDS_EACH)

mutants: .packages-build ## plant mistakes in the MQTT code that its tests must find
	Tests/Mutants/run.sh

simulate: .packages-build ## play the mesh in SEEDS worlds with virtual time and faults (SEED=7 replays one)
	swift build -c release -Xswiftc -enable-testing --scratch-path .build-simulate --product simulate
	.build-simulate/release/simulate $(if $(SEED),seed $(SEED),$(SEEDS))

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
.PHONY: .packages-build .packages-bench .packages-interop .packages-demo .packages-models .swift
.packages-build: .swift
	@scripts/packages.sh build
.packages-bench:
	@scripts/packages.sh bench
.packages-interop:
	@scripts/packages.sh interop
.packages-demo:
	@scripts/packages.sh demo
.packages-models:
	@command -v java >/dev/null || scripts/packages.sh models

.swift:
	@command -v swift >/dev/null || { \
	    echo "There is no swift in PATH: install a toolchain of 6.2 or later, https://www.swift.org/install" >&2; exit 1; }
