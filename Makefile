# What a newcomer needs: `make up` on a machine with python3 (3.11 or newer), make and git. Everything else comes from uv.lock.
.DEFAULT_GOAL := help
PYTHON ?= python3
# A Python that is named is the one that is taken; else bootstrap prefers the system's where that is built better.
BOOTSTRAP := $(PYTHON) tools/bootstrap.py $(if $(filter file,$(origin PYTHON)),,--exactly)
BIN := .venv/bin
ARGS ?=
# Two workers have the tests of whole platforms, which mostly wait, the third begins with all the rest (tests/conftest.py).
WORKERS ?= -n 3 --dist loadscope

.PHONY: help setup up test lint bench mutation docs clean

help: ## this list
	@sed -nE 's/^([a-z]+):[^#]*## /  make \1\t/p' Makefile | expand -t 18

setup: ## set up .venv from uv.lock (the other targets do it first)
	@$(BOOTSTRAP)

up: setup ## start the platform here, in the foreground (ARGS="--port 9443")
	@exec $(BIN)/tallystick up $(ARGS)

test: lint ## lint and all tests (ARGS="tests/kernel -k money")
	@$(BIN)/pytest $(WORKERS) $(ARGS)

lint: setup ## format, style, types and the layers of the architecture
	@$(BIN)/ruff format --check src tests tools bench
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup ## measure this machine (ARGS="transfers --seconds 20")
	@$(BIN)/tallystick bench $(or $(ARGS),payments)

mutation: setup ## change the rules that move money and the guards a little, hundreds of times: the tests must notice (ARGS="--sample 40")
	@$(BIN)/python -m tools.mutation python $(ARGS)
	@$(BIN)/python -m tools.mutation sql $(ARGS)

docs: ## bring the generated reference up to date and build the documentation into site/
	@$(BOOTSTRAP) --group docs
	@$(BIN)/python -m tools.reference
	@$(BIN)/zensical build --strict
	@$(BIN)/python -m tools.reference --redirects site
	@$(BIN)/python -m tools.site site

clean: ## forget .venv, caches and built documentation; never touches .tallystick
	@rm -rf .venv .cache site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
