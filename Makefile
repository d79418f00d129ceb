# Two commands are all it takes: `make run` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LAB := .state/lab

RUN_PACKAGES := python3-venv etcd-server nftables libnftables1 iproute2 libseccomp2 busybox-static
TEST_PACKAGES := $(RUN_PACKAGES) prometheus docker-registry skopeo umoci runc crun podman docker.io

.PHONY: help
help: ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | sort

# --- installing -----------------------------------------------------------------------------
# A stamp file says with which lock the environment was made; a changed lock makes it anew.

$(VENV)/run.stamp: requirements.txt pyproject.toml
	deploy/install-packages $(RUN_PACKAGES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/dev.stamp: requirements-dev.txt $(VENV)/run.stamp
	deploy/install-packages $(TEST_PACKAGES)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	touch $@

# OR-tools needs an older protobuf than ours, and so an environment of its own.
ORACLE := $(VENV)-oracle
$(ORACLE)/stamp: requirements-oracle.txt
	test -x $(ORACLE)/bin/python || $(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-oracle.txt
	touch $@

.PHONY: lock
lock: $(VENV)/dev.stamp ## resolve the dependencies anew and pin them by hash
	$(BIN)/uv pip compile -q --upgrade --generate-hashes --no-emit-index-url --python-version 3.11 \
	  pyproject.toml --extra install -o requirements.txt
	$(BIN)/uv pip compile -q --upgrade --generate-hashes --no-emit-index-url --python-version 3.11 \
	  pyproject.toml --extra install --extra dev -c requirements.txt -o requirements-dev.txt
	$(BIN)/uv pip compile -q --upgrade --generate-hashes --no-emit-index-url --python-version 3.11 \
	  requirements-oracle.in -o requirements-oracle.txt

# --- running --------------------------------------------------------------------------------

.PHONY: run
run: $(VENV)/run.stamp ## a cluster of three hosts on this machine, with an example serving
	@$(BIN)/python -m lab try --dir $(LAB)

.PHONY: stop
stop: ## end what `make run` started; nothing of it stays
	@test ! -x $(BIN)/python || $(BIN)/python -m lab down --dir $(LAB)
	@rm -rf .state

# --- checking -------------------------------------------------------------------------------

.PHONY: check
check: $(VENV)/dev.stamp ## style, types, import contracts, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/codespell
	@$(MAKE) --no-print-directory proto PB=.state/pb && diff -r -x __pycache__ .state/pb/bayplan/wire/_pb bayplan/wire/_pb \
	  && rm -rf .state/pb || { echo "bayplan/wire/_pb is not what proto/ says: run make proto" >&2; exit 1; }

# These fork, as the runtime does, and so run in a process that has never loaded gRPC, whose threads
# do not survive a fork and hold descriptors of their own.
FORKING := tests/host/runtime tests/host/conformance tests/host/escapes tests/host/shim tests/host/images

.PHONY: test
test: check ## everything that is to pass before a change lands (root, under 15 minutes)
	$(BIN)/python -m pytest -q -n 2 -m "not soak" tests/unit tests/golden tests/oracle tests/simulation
	$(BIN)/python -m pytest -q -m "not soak" $(FORKING)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not soak" $(FORKING:%=--ignore=%) \
	  tests/host tests/integration tests/e2e

.PHONY: test-vm
test-vm: $(VENV)/dev.stamp ## the same on systemd and cgroup v2, in a guest that is thrown away (root)
	$(BIN)/python -m tests.vm.guest --timeout 3600 \
	  BAYPLAN_TEST_PATIENCE=10 python3 -m pytest -q --color=no -m "not soak and not runc" \
	  tests/host/runtime tests/host/conformance tests/host/escapes tests/host/shim tests/vm/inside

.PHONY: test-oracle
test-oracle: .state/optima.json ## have CP-SAT confirm the optima that `pack` is held against
	$(BIN)/python -m tests.oracle check < $<

.PHONY: optima
optima: .state/optima.json ## find them anew, after a change of the instances
	$(BIN)/python -m tests.oracle record < $<

.PHONY: .state/optima.json
.state/optima.json: $(VENV)/dev.stamp $(ORACLE)/stamp
	@mkdir -p .state
	$(BIN)/python -m tests.oracle ask > .state/instances.json
	$(ORACLE)/bin/python -m tests.oracle.bins < .state/instances.json > $@

.PHONY: soak
soak: $(VENV)/dev.stamp ## what takes longer: thousands of start/stop cycles and seeds
	$(BIN)/python -m pytest -q -m soak $(FORKING)
	$(BIN)/python -m pytest -q -m soak $(FORKING:%=--ignore=%) tests/host
	$(BIN)/python -m pytest -q -n 2 -m soak tests/simulation

.PHONY: bench
bench: $(VENV)/dev.stamp ## measure everything docs/benchmarks.md reports (about 15 minutes)
	@for script in scheduler store runtime density apply failover; do $(BIN)/python -m bench.$$script || exit 1; done
	@$(BIN)/python -m bench.control_plane --agents 500 --tasks 20000 --lost 50 --steady 30

# --- generated code -------------------------------------------------------------------------
PB ?= .
.PHONY: proto
proto: $(VENV)/dev.stamp ## generate bayplan/wire/_pb from proto/
	@mkdir -p $(PB)/bayplan/wire/_pb
	@$(BIN)/python -m grpc_tools.protoc -Iproto --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --python_out=$(PB)/bayplan/wire/_pb \
	  --mypy_out=readable_stubs,quiet:$(PB)/bayplan/wire/_pb --grpc_python_out=$(PB)/bayplan/wire/_pb \
	  --mypy_grpc_out=quiet:$(PB)/bayplan/wire/_pb $$(cd proto && find . -name '*.proto' | cut -c3- | sort)
	@cd $(PB) && $(abspath $(BIN)/python) $(abspath proto/relocate.py) bayplan/wire/_pb
