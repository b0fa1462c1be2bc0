# Each target is one command that also works alone.

.PHONY: test test-catalog-server test-demo test-the-rest check audit sbom release reproducible tools test-cluster away chaos outage upgrade image-check demo bench

# Everything that has to hold, from nothing: also what CI runs. What is quick comes
# first. What needs the clusters has the machine alone; of the rest, much waits or
# keeps one core busy.
test: check tools
	cargo build --locked --examples
	cargo test --locked --no-run
	cargo test --locked --lib --bins --example catalog-server $(call tests,$(AT_FIRST))
	cargo test --locked --test cluster
	$(MAKE) --jobs=3 --output-sync=line test-catalog-server test-demo test-the-rest

# Every test target, by its place.
TARGETS = $(basename $(notdir $(wildcard tests/*.rs))) $(patsubst tests/%/main.rs,%,$(wildcard tests/*/main.rs))
tests = $(patsubst %,--test %,$(1))
# Those that only read and compute, and those that are run by themselves.
AT_FIRST = crd deploy docs golden guide house logs mapping render
BY_THEMSELVES = cluster catalog_server demo

test-catalog-server:
	cargo test --locked --test catalog_server

test-demo:
	cargo test --locked --test demo

test-the-rest:
	cargo test --locked $(call tests,$(filter-out $(AT_FIRST) $(BY_THEMSELVES),$(TARGETS)))
	cargo test --locked --doc

# What needs no cluster and no running: form, lints, dependencies. (The files of
# tests/cluster are named by a macro, which `cargo fmt` does not see through.)
check: target/tools/bin/cargo-deny
	cargo fmt --check
	rustfmt --check --edition 2024 tests/cluster/*.rs
	cargo clippy --locked --all-targets -- -D warnings
	target/tools/bin/cargo-deny --log-level error check bans licenses sources

# Known weaknesses of dependencies; reaches the advisory database.
audit: target/tools/bin/cargo-deny
	target/tools/bin/cargo-deny check advisories

target/tools/bin/cargo-deny:
	cargo install --locked --root target/tools --version 0.20.2 cargo-deny

# What the program is made of, as CycloneDX: target/sbom/*.cdx.json. The tool
# writes beside Cargo.toml only, and where that is.
sbom: target/tools/bin/cargo-cyclonedx
	mkdir -p target/sbom
	target/tools/bin/cargo-cyclonedx cyclonedx --format json --spec-version 1.5 \
		--target x86_64-unknown-linux-gnu --override-filename sbom.made
	sed 's|$(CURDIR)|/source|g' sbom.made.json > target/sbom/catalog-mesh-controller.cdx.json
	rm sbom.made.json
	python3 tests/tools/check-sbom.py target/sbom/catalog-mesh-controller.cdx.json

target/tools/bin/cargo-cyclonedx:
	cargo install --locked --root target/tools --version 0.5.9 cargo-cyclonedx

# The program as it is shipped. No path of this machine is to get into it: the
# same source should make the same bytes wherever it stands.
PATHS = $(CURDIR)=/source $(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo
release:
	RUSTFLAGS="$(PATHS:%=--remap-path-prefix=%)" CFLAGS="$(PATHS:%=-ffile-prefix-map=%)" \
	cargo build --locked --release --bin catalog-mesh-controller

# Whether it does: the last commit, in two folders, compared. Two whole builds.
reproducible:
	rm -rf target/reproducible
	for folder in one another/and-a-longer-one; do \
		mkdir -p target/reproducible/$$folder && \
		git archive HEAD | tar -x -C target/reproducible/$$folder && \
		$(MAKE) -C target/reproducible/$$folder release || exit 1; \
	done
	sha256sum target/reproducible/one/target/release/catalog-mesh-controller
	cmp target/reproducible/one/target/release/catalog-mesh-controller \
		target/reproducible/another/and-a-longer-one/target/release/catalog-mesh-controller

# Builds the real parts (Kubernetes, Istio, Envoy) into target/tools, once.
tools:
	python3 tests/tools/build.py

# What only a real cluster can show.
test-cluster: tools
	cargo build --locked --example catalog-server
	cargo test --locked --test cluster

# The whole product at work on real parts; ONCE=1 ends it by itself. In its last
# chapter a replica fails: FAIL=500, hangs, refuses or disappears, or several of
# them with commas in between.
demo:
	cargo run --locked --example demo -- $(if $(ONCE),--once) $(if $(FAIL),--fail=$(FAIL))

# Measures the operator beside a bare client, on this machine; for example
# `make bench SCENARIO=cold-start N=1000`, `make bench QUICK=1`; CHECK=1 ends with
# an error where a goal is missed. The operator
# is built as it is shipped: alone, so without what the tests ask of its crates, and
# runs with the environment that its image has.
bench: AS_SHIPPED = $(shell sed -n 's/^ENV //p' Dockerfile)
bench: tools
	cargo build --locked --release --bin catalog-mesh-controller
	install -D target/release/catalog-mesh-controller target/bench/catalog-mesh-controller
	cargo build --locked --release --example catalog-server
	$(AS_SHIPPED) OPERATOR=$(CURDIR)/target/bench/catalog-mesh-controller \
	$(foreach name,SCENARIO N QUICK CHECK RUNS RATE SECONDS_OF_LOAD PROBES IN_FLIGHT SAVE OPERATOR_FLAGS,$(if $($(name)),$(name)="$($(name))")) \
	cargo bench --locked --bench system

# A long outage of the catalog, with restarts and changes of the leader.
outage: tools
	cargo build --locked --example catalog-server
	OUTAGE_SECONDS="$(or $(SECONDS),600)" TEST_LIMIT=7200 \
	cargo test --locked --test cluster an_outage_with_restarts

# An upgrade under traffic with 200 bindings, from 0.1.0 to what is here;
# `make upgrade FROM=<commit> BINDINGS=20` from another version.
upgrade: tools
	cargo build --locked --example catalog-server
	UPGRADE_FROM="$$(tests/tools/upgrade-from.sh $(or $(FROM),4317ba4e122e335a9442d8e2684d00b57fcc7632))" \
	UPGRADE_BINDINGS="$(or $(BINDINGS),200)" TEST_LIMIT=1800 \
	cargo test --locked --test cluster an_upgrade_under_traffic

# The image, built on bases made here, and the operator in it at work; needs root,
# buildah and debootstrap. PROFILE=dev for a quick one.
image-check: tools
	PROFILE="$(or $(PROFILE),release)" tests/tools/image-check.sh

# Random changes of the catalog while everything around it fails, and whether
# all is right in the end; `make chaos CHANGES=100000 SEED=1` for a long run.
chaos: tools
	cargo build --locked --example catalog-server
	CHAOS_CHANGES="$(or $(CHANGES),2000)" TEST_LIMIT=7200 \
	$(foreach name,SEED SERVICES,$(if $($(name)),CHAOS_$(name)="$($(name))")) \
	cargo test --locked --test cluster when_it_falls_quiet

# The API server away for a minute and the leader's term over meanwhile, with one
# endpoint out and all others well.
away: tools
	cargo build --locked --example catalog-server
	API_AWAY_SECONDS="$(or $(SECONDS),60)" \
	cargo test --locked --test cluster a_leader_whose_term_ends_without
