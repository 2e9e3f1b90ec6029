#!/usr/bin/env bash
# Compare experiments on the same rows: scores, differences with their intervals, and whether they mean anything.
#
#   scripts/compare_oof.sh [EXPERIMENT…] [options of `kit oof compare`]
#
# Without arguments: all experiments that are trained on all folds, of the only competition that has any.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup_kit

kit oof compare "$@"
