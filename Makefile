# What a developer runs; CI runs `make check` and `make test`.
.PHONY: run check test bench test-clients setup
.DEFAULT_GOAL := check

run:
	cargo run --release -- serve

setup:
	tests/setup.sh

check: setup
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
	cargo clippy --quiet -p e2e --all-targets --features newer-clients --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps --document-private-items --locked
	tests/check-deps.sh

# Unit tests and the tests with real clients and servers; as root, on Debian.
# With the tests at once: alone the programs would be built with fewer features, and all below them twice.
test: setup
	cargo build --quiet --release --workspace --bins --tests --locked
	cargo test --release --workspace --locked

# `make bench ROWS="download idle"` for some rows; ROWS=--quick for a glance.
bench:
	tests/setup.sh time wrk nginx-light
	cargo build --quiet --release --workspace --locked
	target/release/bench $(ROWS)

# Docker 26 with the containerd image store and podman 5, from a Debian 13 tree; not part of CI.
test-clients: setup
	cargo build --quiet --release --workspace --locked
	cargo test --release -p e2e --features newer-clients --test newer_clients --locked
