#!/usr/bin/env bash
# Put the locked dependencies and this package into .venv. Needs Python >= 3.11 with venv.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "setup: Python 3.11 or newer is needed; set PYTHON=/path/to/python3" >&2
  exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  scripts/packages.sh venv
fi
[ -x .venv/bin/python ] || { echo "setup: making .venv"; "$python" -m venv .venv; }
echo "setup: installing the locked dependencies"
.venv/bin/python -m pip install -q --require-hashes --only-binary :all: -r requirements.lock
.venv/bin/python -m pip install -q --no-deps --no-build-isolation -e .
