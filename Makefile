# Each target is one command that also works alone.

.PHONY: test check audit tools test-cluster demo

# Everything that has to hold, from nothing: also what CI runs.
test: check tools
	cargo build --locked --examples
	cargo test --locked

# What needs no cluster and no running: form, lints, dependencies.
check: target/tools/bin/cargo-deny
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	target/tools/bin/cargo-deny --log-level error check bans licenses sources

# Known weaknesses of dependencies; reaches the advisory database.
audit: target/tools/bin/cargo-deny
	target/tools/bin/cargo-deny check advisories

target/tools/bin/cargo-deny:
	cargo install --locked --root target/tools --version 0.20.2 cargo-deny

# Builds the real parts (Kubernetes, Istio, Envoy) into target/tools, once.
tools:
	python3 tests/tools/build.py

# What only a real cluster can show.
test-cluster: tools
	cargo build --locked --example catalog-server
	cargo test --locked --test cluster

# The whole product at work on real parts; ONCE=1 ends it by itself.
demo:
	cargo run --locked --example demo -- $(if $(ONCE),--once)
