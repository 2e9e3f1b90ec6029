#!/usr/bin/env bash
# Every check there is: style, types, layers, tests.
#
#   scripts/test.sh [options of pytest]     for example: scripts/test.sh -m "not slow"
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup_kit dev

# One command a line: `set -e` does not see a failure on the left of `&&`.
echo "== ruff"
ruff check .
ruff format --check .
echo "== mypy"
mypy
echo "== import-linter"
lint-imports
echo "== pytest"
pytest "$@"
