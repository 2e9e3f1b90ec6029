#!/usr/bin/env bash
# tf2onnx 1.17.0, called by Keras 3.15.1 (`Model.export(format="onnx")`) with TensorFlow 2.21.0 on Python 3.11: writing an
# ONNX file takes twenty-five times the memory of the weights more than it needs.
#
# Expected: some copies of the weights at a time, each given back when the next one is made.
# Seen: before each of some forty shortenings the graph is copied with its weights. A graph refers to itself in circles, so
# that a copy waits for Python's collector, which counts objects, not bytes, and looks at old ones rarely: the copies pile
# up. With a collection before each copy the peak is about half. EfficientNetV2-L took 23 GB, and 24 GiB were too few.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    tensorflow==2.21.0 keras==3.15.1 tf2onnx==1.17.0 onnx==1.23.2
cd "$folder"
cat >convert.py <<'PYTHON'
import copy
import gc
import resource
import sys
import types

import keras
import numpy as np
import tf2onnx.optimizer

network = keras.applications.EfficientNetV2S(weights=None, include_top=False, pooling="avg")
network(np.zeros((1, 384, 384, 3), np.float32))
if sys.argv[1] == "collected":

    def copied(graph):
        gc.collect()
        return copy.deepcopy(graph)

    tf2onnx.optimizer.copy = types.SimpleNamespace(deepcopy=copied)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
network.export("network.onnx", format="onnx", verbose=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"{sys.argv[1]}: {4 * network.count_params() / 1e6:.0f} MB of weights, {before / 1e6:.1f} GB before, peak {peak / 1e6:.1f} GB")
with open(sys.argv[1], "w") as file:
    file.write(str(peak))
PYTHON
export TF_CPP_MIN_LOG_LEVEL=3
venv/bin/python convert.py plain 2>stderr || { tail -5 stderr; exit 1; }
venv/bin/python convert.py collected 2>stderr || { tail -5 stderr; exit 1; }
python3 -c 'plain, collected = (int(open(name).read()) for name in ("plain", "collected")); assert plain > 1.5 * collected, (plain, collected)'
echo "seen as described"
