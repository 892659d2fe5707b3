# Two commands do everything: `make results` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(CURDIR)/$(VENV)/bin
RUN := PATH="$(BIN):$$PATH"

.PHONY: help environment data results ablations paper test fast-test lint demo-recipe clean

help:
	@echo "make results      environment, demo data, pipeline, report (results/report/index.html)"
	@echo "make ablations    which part of the method does what (ablations/results/notebooks/ablations.ipynb)"
	@echo "make paper        the published setting; wants a GPU and BMAD, see docs/reproducing-the-paper.md"
	@echo "make test         every test"
	@echo "make fast-test    the tests that take seconds"
	@echo "make lint         style"
	@echo "make demo-recipe  draw the phantoms and pretrain the demo backbone anew (over an hour)"

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

environment: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e ".[clinical]"
	@touch $@

# what only tests, style checks and the recipe of the demo need
$(VENV)/installed-tests: $(VENV)/installed
	$(INSTALL) -e ".[test]"
	@touch $@

data: environment
	$(RUN) dvc pull --quiet data.dvc

results: data
	$(RUN) dvc repro
	@echo "done: open results/report/index.html"

ablations: data
	$(RUN) dvc repro ablations/dvc.yaml
	@echo "done: read ablations/results/findings.md, or open ablations/results/notebooks/ablations.ipynb"

paper: environment
	@test -d paper/data || { echo "paper/data is missing; docs/reproducing-the-paper.md says what belongs there"; exit 1; }
	cd paper && $(RUN) dvc repro
	@echo "done: open paper/results/report/index.html"

test: data $(VENV)/installed-tests
	$(RUN) ruff check .
	$(RUN) OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

fast-test: data $(VENV)/installed-tests
	$(RUN) python -m pytest -m "not slow"

lint: $(VENV)/installed-tests
	$(RUN) ruff check .
	$(RUN) ruff format --check .

demo-recipe: $(VENV)/installed-tests
	$(RUN) dvc unfreeze recipe/dvc.yaml:phantoms recipe/dvc.yaml:pretrain
	$(RUN) dvc repro recipe/dvc.yaml
	$(RUN) dvc freeze recipe/dvc.yaml:phantoms recipe/dvc.yaml:pretrain

clean:
	rm -rf $(VENV)
