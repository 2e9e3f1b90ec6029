#!/usr/bin/env bash
# Every check there is: style, types, layers, tests.
#
#   scripts/test.sh [options of pytest]     for example: scripts/test.sh -m "not slow"
#   scripts/test.sh --kaggle-image          the built kernels alone, with the versions of Kaggle's image
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup_kit dev
unset PYTHONDONTWRITEBYTECODE  # each process that the tests start would compile TensorFlow anew: 8 s of computing

if [ "${1:-}" = --kaggle-image ]; then
    shift
    setup_kaggle_image
    KERNEL_PYTHON="$PWD/.venv-kaggle/bin/python" exec pytest tests/test_rehearsed_kernels.py "$@"
fi

# One command a line: `set -e` does not see a failure on the left of `&&`.
echo "== ruff"
ruff check .
ruff format --check .
echo "== mypy"
mypy
echo "== import-linter"
lint-imports
echo "== pytest"
# A worker a core; the tests of a file stay together, as they share what they trained. In their order: by default files
# with few tests come last, which are the slow ones, and one worker ends long after the others.
pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
