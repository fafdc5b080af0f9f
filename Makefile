# The two commands: `make demo` runs the main job, `make test` passes the tests. Both install what is missing first.

SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)
MESSAGES ?= 200

.PHONY: demo test test-faults test-soak bench-delivery lint doc build train bench help

help: ## Shows this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: ## Builds the release program and runs the whole main job on an embedded broker
	@deploy/setup.sh build
	@cargo build --release --locked --quiet
	@target/release/vigie demo --messages $(MESSAGES)

build: ## Builds both release programs
	@deploy/setup.sh build
	cargo build --release --locked --features training

test: ## Runs every test: unit, integration, training, and against a real Apache Kafka
	@deploy/setup.sh test
	cargo test --locked --features training --lib --bins --test it
	cargo test --locked --features training --test kafka

test-faults: ## Runs the long fault suite against three real brokers and writes its table to target/faults.md
	@deploy/setup.sh test
	VIGIE_FAULTS_OUT=$(or $(VIGIE_FAULTS_OUT),target/faults.md) cargo test --locked --release --test kafka -- --ignored --nocapture faults::

test-soak: ## Runs the service at a steady rate for MINUTES (60), fails when anything grows; csv and plot in target/soak
	@deploy/setup.sh test
	VIGIE_SOAK_MINUTES=$(or $(MINUTES),60) cargo test --locked --release --test kafka -- --ignored --nocapture soak::

bench-delivery: ## Measures what exactly-once delivery costs and writes the table to target/price.md
	@deploy/setup.sh test
	VIGIE_PRICE_OUT=$(or $(VIGIE_PRICE_OUT),target/price.md) cargo test --locked --release --test kafka -- --ignored --nocapture price::

lint: ## Format, clippy with warnings as errors, documentation
	cargo fmt --check
	cargo clippy --locked --all-targets --features encoder -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --features training

.PHONY: audit fuzz
audit: ## Licences, sources and known weaknesses of the dependencies, by deny.toml
	@deploy/setup.sh build
	@deploy/audit.sh

fuzz: ## Fuzzes every target in turn, MINUTES each (20)
	@deploy/setup.sh build
	@deploy/fuzz.sh $(or $(MINUTES),20)

train: ## Rebuilds the default model and its report from the corpus and the public sets (DATA=folder)
	@deploy/setup.sh build
	@# Networks are trained side by side already; more threads each stand in each other's way.
	RAYON_NUM_THREADS=1 cargo run --release --locked --features training --bin vigie-train -- run --data $(or $(DATA),../shared/datasets) --out src/models/default.vigie
