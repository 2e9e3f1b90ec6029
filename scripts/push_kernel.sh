#!/usr/bin/env bash
# Run a kernel on Kaggle: build it, upload what it needs, push it, wait, and bring its results home.
#
#   scripts/push_kernel.sh [NAME] [options of `kit kernel run`]
#
# Without arguments: a rehearsal. The kernel `train` trains the demo on a local server that stands in for Kaggle.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup_kit

if [ $# -gt 0 ]; then exec kit kernel run "$@"; fi
kit demo --if-missing
echo "This is a rehearsal: nothing leaves this machine. On Kaggle: scripts/push_kernel.sh train --recipe RECIPE --competition SLUG"
kit rehearse --fresh -- kit kernel run train
