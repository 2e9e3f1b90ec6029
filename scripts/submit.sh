#!/usr/bin/env bash
# Submit an experiment or a CSV to Kaggle, wait for its score, and keep account of it.
#
#   scripts/submit.sh [EXPERIMENT|CSV] [options of `kit submit`]
#
# Without arguments, after scripts/train_folds.sh: a rehearsal of all that on the demo competition, with a server on
# this machine that plays Kaggle. Nothing leaves the machine, and no account is needed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup_kit

if [ $# -gt 0 ]; then
    exec kit submit "$@"
fi

if [ ! -f oof/demo/demo/manifest.json ]; then
    echo "error: the demo has not been trained yet" >&2
    echo "  next: scripts/train_folds.sh, then this again; or name what to submit: scripts/submit.sh EXPERIMENT" >&2
    exit 1
fi

echo "THIS IS A REHEARSAL: the demo competition, on a server on this machine that plays Kaggle"
downloaded=runs/.rehearsal/downloaded
rm -rf "$downloaded"
kit rehearse --competition demo --fresh -- bash -euo pipefail -c '
    step() { echo; echo "\$ $*"; "$@"; }
    step kit download demo --to "$1"
    step kit submit demo --competition demo --again
    step kit submissions demo
' bash "$downloaded"
echo
echo "That was a rehearsal. For a competition on Kaggle: kit download SLUG, train, then scripts/submit.sh EXPERIMENT"
