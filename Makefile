PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help
help: ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | sort

.PHONY: proto
proto: ## generate bayplan/wire/_pb from proto/
	$(BIN)/python -m grpc_tools.protoc -Iproto --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --python_out=bayplan/wire/_pb \
	  --mypy_out=readable_stubs,quiet:bayplan/wire/_pb --grpc_python_out=bayplan/wire/_pb \
	  --mypy_grpc_out=quiet:bayplan/wire/_pb $$(find proto -name '*.proto' | sort)
	$(BIN)/python proto/relocate.py bayplan/wire/_pb

.PHONY: check
check: ## style, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
