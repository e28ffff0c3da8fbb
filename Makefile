# `make demo` and `make test` set up whatever they need.
PYTHON ?= python3
# Each PYTHON has an environment of its own, so that `make test PYTHON=python3.12` tests that version.
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
SIZE ?= tiny_loop
# A folder holds one chain of one size.
WORKDIR ?= runs/$(SIZE)
STAMP := $(VENV)/.installed

export JAX_PLATFORMS ?= cpu
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test test-long test-sandbox test-peers lint bench clean

$(STAMP): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .[test]
	touch $@

# Tests compile for TPUs with libtpu (200 MB), which the demo does not need. It needs no TPU.
TPU_STAMP := $(VENV)/.installed-libtpu
$(TPU_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable .[test,tpu]
	touch $@

demo: $(STAMP)
	$(BIN)/python -m launch.chain run --size=$(SIZE) --workdir=$(WORKDIR)

lint: $(STAMP)
	$(BIN)/ruff check .

test: lint $(TPU_STAMP)
	$(BIN)/python -m pytest tests --ignore=tests/peers --ignore=tests/sandbox -n 2 -q -m "not long"

test-long: lint $(TPU_STAMP)
	$(BIN)/python -m pytest tests --ignore=tests/peers --ignore=tests/sandbox -n 2 -q

# Attacks the sandbox on every backend and in every language that this machine has (bubblewrap and golang are Debian packages).
test-sandbox: $(STAMP)
	$(BIN)/python -m pytest tests/sandbox -q -rs

# Other implementations have an environment of their own, in which only two small scripts run.
PEERS := $(VENV)-peers
$(PEERS)/.installed: Makefile
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet 'mlx[cpu]==0.32.4' mlx-lm==0.32.2 torch==2.13.0
	touch $@

test-peers: $(STAMP) $(PEERS)/.installed
	PEERS_PYTHON=$(PEERS)/bin/python $(BIN)/python -m pytest tests/peers -q

bench: $(STAMP)
	$(BIN)/python -m launch.bench

clean:
	rm -rf $(VENV) $(PEERS) runs
