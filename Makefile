# PYTHON=python3.12 chooses the interpreter, PORT=8000 the port of `make run`.
PORT ?= 3000
BIN := .venv/bin
export PORT

.PHONY: run test check bench

run: ## a gateway in front of the demo server, and a curl to try it with
	@sh scripts/venv.sh
	@sh scripts/run.sh

test: ## the whole suite, in random order, with the SDKs and servers of others
	@sh scripts/venv.sh test
	@PYTHON=$(CURDIR)/$(BIN)/python sh tests/live/install.sh \
		|| echo "Some software of others is missing: the tests that need it are skipped." >&2
	$(BIN)/python -m twisted.trial --jobs=2 --random=0 tests

check: ## style, formatting and types
	@sh scripts/venv.sh dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: ## how fast it is here, beside references and gateways of others; BENCH="--quick" is shorter
	@sh scripts/venv.sh
	@PYTHON=$(CURDIR)/$(BIN)/python sh benchmarks/install.sh
	$(BIN)/python -m benchmarks $(BENCH)
