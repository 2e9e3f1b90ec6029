#!/usr/bin/env bash
# ONNX Runtime 1.31.1 on a CPU: zeros laid around a picture (Pad) and the maximum over windows of it (MaxPool) are merged
# when a file is loaded, and the result is another one wherever values are negative.
#
# Expected: the same numbers at every level of optimization, those of the ONNX specification: the zeros take part in the
# maximum.
# Seen: as specified with ORT_DISABLE_ALL alone. From ORT_ENABLE_BASIC on (the default is ORT_ENABLE_ALL) the zeros become the
# pool's own padding, which takes part in no maximum. ResNet V2 of keras.applications is built so (pool1_pad, pool1_pool,
# with no ReLU before them): exported, its class probabilities were 0.14 to 0.65 off. ResNet V1 has a ReLU before.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.31.1
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

given = helper.make_tensor_value_info("given", TensorProto.FLOAT, [1, 1, 6, 6])
made = helper.make_tensor_value_info("made", TensorProto.FLOAT, [1, 1, 3, 3])
pads = helper.make_tensor("pads", TensorProto.INT64, [8], [0, 0, 1, 1, 0, 0, 1, 1])
nodes = [
    helper.make_node("Pad", ["given", "pads"], ["padded"]),
    helper.make_node("MaxPool", ["padded"], ["made"], kernel_shape=[3, 3], strides=[2, 2]),
]
graph = helper.make_graph(nodes, "pool", [given], [made], [pads])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
onnx.checker.check_model(model)

values = -np.arange(1, 37, dtype=np.float32).reshape(1, 1, 6, 6)
padded = np.pad(values[0, 0], 1)
expected = np.array([[padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max() for j in range(3)] for i in range(3)])
print("onnxruntime", onnxruntime.__version__)
print("as specified    ", expected.ravel())
differs = {}
for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"given": values})[0][0, 0]
    print(f"{level:20}", found.ravel())
    differs[level] = not np.array_equal(found, expected)
wanted = {"ORT_DISABLE_ALL": False, "ORT_ENABLE_BASIC": True, "ORT_ENABLE_EXTENDED": True, "ORT_ENABLE_ALL": True}
assert differs == wanted, differs
print("seen as described")
PYTHON
