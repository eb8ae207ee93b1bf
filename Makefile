# Everything that a person types. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
PYTHON ?= python3
# Where cargo puts what it builds; outside the checkout if CARGO_TARGET_DIR says so.
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

.PHONY: demo
demo: ## Run one whole conversation and a tamper test; ARGS='--help' lists what can be changed
	$(CARGO) build --release --locked --bins $(addprefix --package ,halo-e2e halo-gateway halo-substrate halo-emulators halo-audit)
	$(TARGET)/release/halo-demo $(ARGS)

CHECKS := check-format check-lints check-tests check-vectors check-aws-emulator check-charts check-rules check-images check-dependencies

.PHONY: test
test: ## Everything that must pass before a change lands, and how long each part took
	@for part in $(CHECKS); do \
		started=$$SECONDS; echo "== make $$part"; \
		$(MAKE) --no-print-directory $$part; \
		echo "== make $$part took $$((SECONDS - started)) s"; \
	done

.PHONY: check-format
check-format: ## The formatter has nothing to change
	$(CARGO) fmt --all --check

.PHONY: check-lints
check-lints: ## No compiler or clippy warning in any target
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings

.PHONY: check-tests
check-tests: ## Every test, on the programs as they are built for development
	$(CARGO) build --workspace --bins --locked
	$(CARGO) test --workspace --locked --no-fail-fast

.PHONY: check-vectors
check-vectors: ## The test vectors, by a checker that shares nothing with the Rust code
	$(PYTHON) receipts/vectors/check.py

.PHONY: check-aws-emulator
check-aws-emulator: ## The AWS emulator against moto, through boto3: every difference is a known one
	$(CARGO) build --workspace --bins --locked
	$(PYTHON) emulators/aws/differential/run.py --emulator $(TARGET)/debug/halo-aws-emulator

.PHONY: check-charts
check-charts: ## The rendered charts against the schemas of Kubernetes 1.33 to 1.37
	$(PYTHON) charts/check.py

.PHONY: check-rules
check-rules: ## Alerts and recording rules: promtool reads them, and each fires and stays silent when it should; dashboards: Grafana's model knows every field
	$(PYTHON) telemetry/promtool/check.py
	$(PYTHON) telemetry/grafana/check.py

.PHONY: check-images
check-images: ## The image builder and the Dockerfile say the same
	$(PYTHON) -m unittest discover --start-directory images

.PHONY: check-dependencies
check-dependencies: ## Licences of all dependencies, one TLS stack, nothing banned
	$(PYTHON) scripts/check_dependencies.py

.PHONY: bench
bench: ## Measure, with the limit of this machine beside each figure
	$(CARGO) bench --locked --package halo-receipts --bench protocol --bench verdict
	$(CARGO) bench --locked --package halo-ledger --bench ledger --bench units
	$(CARGO) bench --locked --package halo-gateway --bench gateway

.PHONY: bench-operator
bench-operator: ## Measure the operator against a real API server and the AWS emulator; ARGS='--help' lists what can be changed
	$(CARGO) build --release --locked --package halo-operator --package halo-e2e-cluster --bins
	$(TARGET)/release/halo-bench-operator $(ARGS)

.PHONY: images
images: ## Build the images as OCI tars, without a container engine; ARGS='--help' lists what can be changed
	$(PYTHON) images/build.py --out $(TARGET)/images $(ARGS)

.PHONY: e2e
e2e: ## The whole system on a real cluster, as root; STEP=n runs one step, ARGS='--help' lists what can be changed
	$(CARGO) build --workspace --bins --locked
	$(TARGET)/debug/halo-e2e-run $(addprefix --step ,$(STEP)) $(ARGS)

.PHONY: format
format: ## Format the code
	$(CARGO) fmt --all
