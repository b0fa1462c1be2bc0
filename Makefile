# Each target is one command that also works alone.

.PHONY: tools test-cluster

# Builds the real parts (Kubernetes, Istio, Envoy) into target/tools, once.
tools:
	python3 tests/tools/build.py

# What only a real cluster can show.
test-cluster: tools
	cargo test --locked --test cluster
