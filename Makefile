# `make demo` and `make test` set up whatever they need.
PYTHON ?= python3
# Each PYTHON has an environment of its own, so that `make test PYTHON=python3.12` tests that version.
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
SIZE ?= tiny_loop
# A folder holds one chain of one size.
WORKDIR ?= runs/$(SIZE)
STAMP := $(VENV)/.installed
TPU_STAMP := $(VENV)/.installed-libtpu

export JAX_PLATFORMS ?= cpu
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test test-long test-tpu test-sandbox test-peers prove-rl drill lint bench clean

$(STAMP): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .[test,data,serve]
	# Tests read the problems it ships; what it would install is for the models it calls.
	$(BIN)/python -m pip install --quiet --no-deps bfcl-eval==2026.3.23
	touch $@

demo: $(STAMP)
	$(BIN)/python -m launch.chain run --size=$(SIZE) --workdir=$(WORKDIR)

lint: $(STAMP)
	$(BIN)/ruff check .

PYTEST := $(BIN)/python -m pytest -q
# Three processes for two cores: tests that kill and restart commands mostly wait.
TESTS := tests --ignore=tests/peers --ignore=tests/sandbox -n 3

test: lint
	$(PYTEST) $(TESTS) -m 'not long and not tpu'

test-long: lint $(TPU_STAMP)
	$(PYTEST) $(TESTS)

# What the compiler for TPUs makes of the kernels and of whole steps. It is libtpu (200 MB) and needs no TPU.
$(TPU_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --editable .[test,data,serve,tpu]
	touch $@

test-tpu: $(TPU_STAMP)
	$(PYTEST) $(TESTS) -m 'tpu and not long'

# Attacks the sandbox on every backend and in every language that this machine has (bubblewrap and golang are Debian packages).
test-sandbox: $(STAMP)
	$(PYTEST) tests/sandbox -rs

# Other implementations have an environment of their own, in which only two small scripts run.
PEERS := $(VENV)-peers
PEERS_PACKAGES := 'mlx[cpu]==0.32.4' mlx-lm==0.32.2 torch==2.13.0 transformers==5.24.0 jinja2==3.1.6
$(PEERS)/.installed: Makefile
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet $(PEERS_PACKAGES)
	touch $@

test-peers: $(STAMP) $(PEERS)/.installed
	PEERS_PYTHON=$(PEERS)/bin/python $(PYTEST) tests/peers

# Reinforcement learning must raise the held-out pass rate, for three seeds on each of two chains; an hour or two, resumable.
prove-rl: WORKDIR = runs/prove_rl
prove-rl: $(STAMP)
	$(BIN)/python -m tests.prove.rl $(WORKDIR)

# Small chains through to reinforcement learning, killed at random moments, must end bit-equal; three hours, resumable.
drill: WORKDIR = runs/drill
drill: $(STAMP)
	$(BIN)/python -m tests.prove.drill $(WORKDIR)

bench: $(STAMP)
	$(BIN)/python -m launch.bench

clean:
	rm -rf $(VENV) $(PEERS) runs
