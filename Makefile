# `make` alone says what there is. Nothing here asks a question.
REQUIREMENTS ?= requirements-cpu.txt

VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
SERVICE_INSTALLED := $(VENV)/installed-dagster

export OMP_WAIT_POLICY := PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test notebooks service service-check lock clean

help:
	@echo 'make demo       run the main job on a generated click log, print the gap, write a report (runs/demo)'
	@echo 'make test       format, lint, types and tests'
	@echo 'make notebooks  run every notebook, on small runs of their own'
	@echo 'make service    the nightly service with its page on http://127.0.0.1:3000 (runs/service)'
	@echo 'make service-check  loads the nightly service, runs one small day with its gates, and exits'
	@echo 'make lock       pin the newest versions that pyproject.toml allows in requirements.lock'
	@echo 'make clean      remove .venv and caches; runs/ stays'
	@echo
	@echo 'Each installs into .venv what is missing. With a GPU: make demo REQUIREMENTS=requirements-gpu.txt'

demo: $(INSTALLED)
	$(VENV)/bin/recdistill run pipelines/jobs/demo.yaml --out runs/demo

test: $(INSTALLED)
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2

# On runs of their own, in a folder that goes away; the comparison comes last, with something to compare.
NOTEBOOKS := $(sort $(wildcard notebooks/*.py))
notebooks: $(INSTALLED)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && export RECDISTILL_RUNS="$$folder" && \
	for notebook in $(filter-out %compare_runs.py,$(NOTEBOOKS)) $(filter %compare_runs.py,$(NOTEBOOKS)); do \
		echo "$$notebook"; \
		MPLBACKEND=Agg OMP_NUM_THREADS=1 $(PYTHON) "$$notebook" || exit 1; \
	done

# Everything that the service keeps is in runs/service, what the page keeps in runs/dagster.
service: export DAGSTER_HOME := $(CURDIR)/runs/dagster
service: export RECDISTILL_SERVICE ?= runs/service
service: $(SERVICE_INSTALLED)
	@mkdir -p runs/dagster && cp pipelines/dagster.yaml runs/dagster/dagster.yaml
	$(PYTHON) -m dagster dev -w pipelines/workspace.yaml -h 127.0.0.1 -p 3000

service-check: export DAGSTER_HOME := $(CURDIR)/runs/service-check/dagster
service-check: export RECDISTILL_SERVICE := runs/service-check/service
service-check: export RECDISTILL_JOB := pipelines/jobs/nightly.yaml
service-check: $(SERVICE_INSTALLED)
	@rm -rf runs/service-check && mkdir -p runs/service-check/dagster
	@cp pipelines/dagster.yaml runs/service-check/dagster/dagster.yaml
	$(PYTHON) -m dagster definitions validate -w pipelines/workspace.yaml
	OMP_NUM_THREADS=1 $(PYTHON) -m dagster job execute -f pipelines/service.py -a defs -j night \
		--tags '{"dagster/partition": "2026-01-04"}'
	$(PYTHON) -m recdistill registry runs/service-check/service

# A local version (+cpu) is a build of the same release, and the same line must hold for every build.
lock:
	$(call venv,.venv-lock)
	.venv-lock/bin/python -m pip install --quiet -r $(REQUIREMENTS) -e '.[dev,dagster,ray]'
	{ echo '# Every dependency, direct and indirect: pip install -c requirements.lock. Made by `make lock`.'; \
	  .venv-lock/bin/python -m pip list --format=freeze --exclude-editable --exclude pip | sed 's/+.*//'; \
	} > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info packaging/*/build packaging/*/*.egg-info
	find recdistill tests notebooks pipelines -name __pycache__ -prune -exec rm -rf {} +

# The stamp is written last, so what was broken off is taken up again.
$(INSTALLED): $(REQUIREMENTS) requirements.lock pyproject.toml packaging/fbgemm-gpu-cpu-shim/pyproject.toml
	@$(PYTHON) -m pip --version > /dev/null 2>&1 || { $(call venv,$(VENV)); }
	@echo 'Installing into $(VENV): a minute or two'
	@$(PYTHON) -m pip install --quiet -r $(REQUIREMENTS) -e '.[dev]' -c requirements.lock
	@$(PYTHON) -m pip check
	@touch $@

$(SERVICE_INSTALLED): $(INSTALLED)
	@$(PYTHON) -m pip install --quiet -r $(REQUIREMENTS) -e '.[dagster]' -c requirements.lock
	@touch $@

# Makes an environment with the first Python that fits.
define venv
	for python in python3.11 python3.12 python3; do \
		if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2> /dev/null; then \
			$$python -m venv --clear $(1); exit; \
		fi; \
	done; \
	echo 'recdistill needs Python 3.11 or 3.12, and neither is on the PATH' >&2; exit 1
endef
