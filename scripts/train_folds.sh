#!/usr/bin/env bash
# The main job: train every fold of a recipe on a competition, and make a submission of it.
#
#   scripts/train_folds.sh [RECIPE] [COMPETITION] [options of `kit train`]
#
# Without arguments: the recipe `demo` on the demo competition, rendered on the spot.
# A run that was interrupted goes on where it was.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup_kit

recipe=demo competition=demo
if [ $# -gt 0 ] && [[ "$1" != -* ]]; then recipe="$1"; shift; fi
if [ $# -gt 0 ] && [[ "$1" != -* ]]; then competition="$1"; shift; fi

[ "$competition" = demo ] && kit demo --if-missing
kit train "$recipe" "$competition" "$@" --submission
