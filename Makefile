# make quickstart   from a clone to a trained model, measured, with a report
# make smoke        every experiment that runs here, for some seconds: trained and measured
# make test         lint and the whole test-suite; another interpreter: make test PYTHON=python3.13
# make bench        the quickstart's training step against PyTorch, side by side
# make bench-gpu    training, attention, decoding and memory on one GPU, with the JAX of PYTHON
# make parity       every kind of model next to PyTorch's transformers, with a table
# Each but make bench-gpu makes its own environment first if it is missing. Needs only git, make and
# python3 >= 3.11.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv$(if $(filter python3,$(PYTHON)),,-$(VERSION))
RUN := $(VENV)/bin/python
WORKDIR ?= runs/g2p_quickstart

.PHONY: quickstart smoke test lint bench bench-gpu parity clean

quickstart: $(VENV)/ready
	@$(RUN) -m experiments.train --config=g2p_quickstart --workdir=$(WORKDIR)
	@$(RUN) -m experiments.evaluate --model=$(WORKDIR) --split=dev --show=15

smoke: $(VENV)/ready
	@for name in $$($(RUN) -m experiments.configs); do \
	  echo "== $$name:smoke" && \
	  $(RUN) -m experiments.train --config=$$name:smoke --workdir=runs/smoke/$$name && \
	  $(RUN) -m experiments.evaluate --model=runs/smoke/$$name || exit 1; \
	done

test: lint
	@$(RUN) -m pytest -n 2 --dist=worksteal

lint: $(VENV)/ready
	@$(RUN) -m ruff check .

bench: $(VENV)/bench-ready
	@$(RUN) -m benchmarks.run --suite=train-g2p

parity: $(VENV)/bench-ready
	@$(RUN) -m pytest tests/interop

bench-gpu:
	@$(PYTHON) -m benchmarks.gpu

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'xformer needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12'; exit 2; }
	@echo 'making $(VENV) with Python $(VERSION) (about a minute; log: $(VENV)/install.log)'
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install -q -c constraints.txt -e '.[data,dev]' > $(VENV)/install.log 2>&1 \
	  || { tail -20 $(VENV)/install.log; exit 1; }
	@touch $@

$(VENV)/bench-ready: $(VENV)/ready
	@echo 'adding PyTorch to $(VENV)'
	@$(RUN) -m pip install -q -c constraints.txt -e '.[parity]' >> $(VENV)/install.log 2>&1 \
	  || { tail -20 $(VENV)/install.log; exit 1; }
	@touch $@

clean:
	rm -rf .venv .venv-* build *.egg-info .pytest_cache .ruff_cache
