#!/bin/sh
# Makes .venv in the current folder as requirements.txt says, or does nothing if that is done already.
#
#   serving/make_venv.sh requirements.txt
#   serving/make_venv.sh requirements-dev.txt     the same, with what tests and linters need
#
# A shell script, because it runs before there is a Python to rely on.
set -eu

requirements=$1
least_kib=1500000  # torch's CPU build with everything else takes about 1.2 GB, and pip unpacks before it copies

fail() {
    echo "error: $*" >&2
    exit 1
}

digest() {
    if command -v sha256sum >/dev/null 2>&1; then sha256sum; else cksum; fi
}

find_python() {
    for name in python3.11 python3.12 python3.13 python3.10 python3; do
        # Run, not only looked up: version managers put names on the path that do not start.
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    fail "found no Python 3.10 or newer on PATH (tried python3.11, python3.12, python3.13, python3.10, python3);" \
        "install one, for example: apt install python3 python3-venv"
}

make_venv() {
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        fail "$python has no venv module; install it, for example: apt install python3-venv"
    free_kib=$(df -Pk . | awk 'NR == 2 { print $4 }')
    [ "$free_kib" -ge "$least_kib" ] ||
        fail "only $((free_kib / 1000)) MB free here, .venv needs at least $((least_kib / 1000)) MB; free some space"
    echo "making .venv with $("$python" --version)" >&2
    "$python" -m venv --clear .venv || fail "$python could not make .venv here (see above)"
}

# Isolated, so that a PYTHONPATH does not make pip believe that something is installed already.
run_pip() {
    .venv/bin/python -I -m pip --disable-pip-version-check --quiet "$@"
}

install() {
    run_pip install --requirement "$requirements" ||
        fail "installing $requirements failed (see above): is the network or the package index reachable, is there" \
            "space in $(pwd) and in ${TMPDIR:-/tmp}? The same command starts again"
    # Without isolation and dependencies this needs no network: setuptools is in requirements.txt.
    run_pip install --no-deps --no-build-isolation --editable . ||
        fail "installing the kit itself into .venv failed (see above)"
    # A Java for the plain `torchserve` command after `source .venv/bin/activate`, where there is no other.
    .venv/bin/torchserve-neuron java-home --link .venv/bin/java >/dev/null ||
        fail "no Java could be set up in .venv (see above)"
}

# The folder is part of the stamp because a virtual environment holds absolute paths and cannot be moved.
wanted=$({ pwd -P; cat requirements.txt requirements-dev.txt setup.py pyproject.toml; } | digest)

is_done() {
    [ "$(cat ".venv/.installed-$requirements" 2>/dev/null)" = "$wanted" ] && [ -x .venv/bin/torchserve-neuron ]
}

is_done && exit 0
# One at a time: two first runs at once would delete each other's environment. The lock is on the folder itself.
if command -v flock >/dev/null 2>&1; then
    exec 9<.
    flock 9
    is_done && exit 0
fi
# Without the mark an interrupted run left it half installed; with another folder in it, it was moved.
if [ "$(cat .venv/.made-in 2>/dev/null)" != "$(pwd -P)" ] || ! .venv/bin/python -c '' 2>/dev/null; then
    make_venv
fi
rm -f .venv/.made-in .venv/.installed-*
echo "installing $requirements into .venv; the first time takes minutes" >&2
install
pwd -P >.venv/.made-in
echo "$wanted" >.venv/.installed-requirements.txt
echo "$wanted" >".venv/.installed-$requirements"
