#!/usr/bin/env bash
# Keras 3.15.1 on TensorFlow 2.21.0: a convolution of each channel alone, said as Conv2D(groups=channels) as
# keras.applications' ConvNeXt says it, is not the layer DepthwiseConv2D with the same numbers.
#
# Expected: the same operation, at about the same speed on a CPU; exported to ONNX, or refused.
# Seen: groups are compiled by XLA, layer by layer, which on a CPU takes many times as long: 7 x 7, 96
# channels, two cores: 15 times in predicting, 23 times in a training step.
# `Model.export(format="onnx")` ends without an error, and its file holds the operator StatefulPartitionedCall, which ONNX
# does not have: onnxruntime cannot open it. As DepthwiseConv2D the same network exports and opens.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    keras==3.15.1 tensorflow==2.21.0 tf2onnx==1.17.0 onnx==1.23.2 onnxruntime==1.31.1
cd "$folder"
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python - 2>errors.txt <<'PYTHON' || { tail -n 20 errors.txt; exit 1; }
import time

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf

CHANNELS = 96
pictures = np.random.default_rng(0).random((8, 40, 40, CHANNELS), dtype=np.float32)


def network(layer):
    given = keras.Input((40, 40, CHANNELS))
    made = keras.Model(given, layer(given))
    made.compile("sgd", "mse")
    return made


def seconds(work):
    work()
    found = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return sorted(found)[2]


grouped = network(keras.layers.Conv2D(CHANNELS, 7, padding="same", groups=CHANNELS))
depthwise = network(keras.layers.DepthwiseConv2D(7, padding="same"))
kernel, bias = grouped.get_weights()
depthwise.set_weights([kernel.transpose(0, 1, 3, 2), bias])
print("keras", keras.__version__, "tensorflow", tf.__version__)
np.testing.assert_allclose(grouped.predict_on_batch(pictures), depthwise.predict_on_batch(pictures), atol=1e-4)
ratios = {}
for what, call in {"predict": lambda m: m.predict_on_batch(pictures), "step": lambda m: m.train_on_batch(pictures, pictures)}.items():
    one, other = seconds(lambda: call(grouped)), seconds(lambda: call(depthwise))
    ratios[what] = one / other
    print(f"{what}: groups {one:.3f} s, depthwise {other:.3f} s, {one / other:.1f} times")
opened = {}
for name, made in {"groups": grouped, "depthwise": depthwise}.items():
    made.export(f"{name}.onnx", format="onnx", verbose=False)
    operators = sorted({node.op_type for node in onnx.load(f"{name}.onnx").graph.node})
    try:
        onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"])
        opened[name] = True
    except Exception as error:
        opened[name] = False
        print(f"{name}: {type(error).__name__}")
    print(f"{name}: {operators}, opens: {opened[name]}")
assert min(ratios.values()) > 3, "groups are no longer several times slower"
assert opened == {"groups": False, "depthwise": True}, "the exported file of groups opens now"
PYTHON
