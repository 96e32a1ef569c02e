# The two commands to know: `make run` and `make test`. `make help` lists the rest.
#
# Variables: ARGS (of `apus run`), BENCH (of `apus-bench run`), TEST (of `swift test`), SECONDS_EACH (of fuzzing),
# SEEDS (how many worlds are simulated), SEED (one of them, with its log), MODELS (names of models), PREFIX, SYSCONFDIR
# and DESTDIR (of `make install`).

SHELL := /bin/sh
ARGS ?=
BENCH ?=
TEST ?=
SECONDS_EACH ?= 20
SEEDS ?= 1000
SEED ?=
MODELS ?=
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR ?=
APUS := .build/release/apus
SOURCES := Package.swift Sources Tests

.DEFAULT_GOAL := help
.PHONY: help run test demo bench interop tutorial simulate models mesh fuzz mutants deep format lint clean node \
    install uninstall deb package deployments sbom

help: ## list the targets
	@echo "make TARGET, with TARGET one of:"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

run: node ## build the node and run it in the foreground (ARGS='--name berlin'); then docs/tutorial.md
	@cat scripts/try-next.txt
	@exec $(APUS) run $(ARGS)

test: .packages-build ## build everything in debug and run all tests (TEST='--filter CoreTests')
	swift test $(TEST)

demo: .packages-demo node ## three nodes, three protocols, one node killed while events flow: half a minute
	@APUS=$(APUS) scripts/demo.sh

bench: .packages-build .packages-bench node ## measure beside mosquitto, NATS, RabbitMQ, the bare kernel, Proton (BENCH=--quick)
	swift build -c release --static-swift-stdlib --product apus-bench
	.build/release/apus-bench run $(BENCH)
	.build/release/apus-bench run $(BENCH) --brokers apus,nats,rabbitmq --scenarios a64,b64,d64,di64,e64,q1a,q1d
	.build/release/apus-bench amqp $(filter --quick,$(BENCH))
	.build/release/apus-bench mesh $(filter --quick,$(BENCH))
	.build/release/apus-bench tls $(filter --quick,$(BENCH))

interop: .packages-build .packages-interop node ## third-party clients against a real node
	Interop/run.sh

tutorial: .packages-build .packages-interop ## follow the README and the tutorial in a clean clone, built there
	$$(Interop/python.sh) Interop/tutorial.py --clone README.md docs/tutorial.md

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

install: ## install what `make node` has built (PREFIX=/usr/local DESTDIR=), with service, manual and completions
	@PREFIX='$(PREFIX)' SYSCONFDIR='$(SYSCONFDIR)' DESTDIR='$(DESTDIR)' packaging/install.sh install

uninstall: ## take it away again; a configuration that was changed stays
	@PREFIX='$(PREFIX)' SYSCONFDIR='$(SYSCONFDIR)' DESTDIR='$(DESTDIR)' packaging/install.sh uninstall

deb: .packages-deb node ## build the Debian package, .build/apus_VERSION_ARCHITECTURE.deb
	packaging/deb.sh

package: .packages-package deb ## install the Debian package in a fresh Debian, use it, remove it (as root)
	packaging/debian_package.py

deployments: .packages-package node ## check what there is for containers, Kubernetes and Terraform; run its settings
	packaging/deployments.sh

sbom: node ## write what is in the node, with versions and licences: .build/apus.cdx.json
	packaging/sbom.py >.build/apus.cdx.json

format: ## format all sources in place
	swift format -i -r $(SOURCES)

lint: .packages-lint ## check the format of all sources, the scripts, the links of all documents, and made tables
	swift format lint --strict -r $(SOURCES)
	shellcheck $$(git ls-files '*.sh') .ci/run packaging/debian/postinst packaging/debian/postrm
	scripts/links.sh
	scripts/interop-list.sh
	Interop/mapping.py --check

clean: ## remove everything that was built
	rm -rf .build .build-*

# The runtime of Swift is linked in: the machines that the program is copied to need C libraries of Debian only.
node: .packages-build ## build the node in release, .build/release/apus
	swift build -c release --static-swift-stdlib --product apus

# Installs what is missing; a look at the package database when nothing is.
.PHONY: .packages-build .packages-bench .packages-interop .packages-demo .packages-models .packages-deb \
    .packages-package .packages-lint .swift
.packages-build: .swift
	@scripts/packages.sh build
.packages-bench:
	@scripts/packages.sh bench
.packages-interop:
	@scripts/packages.sh interop
.packages-demo:
	@scripts/packages.sh demo
.packages-deb:
	@scripts/packages.sh deb
.packages-package:
	@scripts/packages.sh package
.packages-lint:
	@scripts/packages.sh lint
.packages-models:
	@command -v java >/dev/null || scripts/packages.sh models

.swift:
	@command -v swift >/dev/null || { \
	    echo "There is no swift in PATH: install a toolchain of 6.2 or later, https://www.swift.org/install" >&2; exit 1; }
