#!/usr/bin/env bash
# keras 3.15.1: BackupAndRestore with save_freq=N saves within an epoch, and restores to the beginning of that epoch.
#
# Expected: with save_freq=1 a training of 3 epochs of 10 batches that is interrupted after batch 6 of the second epoch goes
# on with batch 7 (tf.keras of TensorFlow 2.x counted the steps of the epoch it restored): 30 updates in all.
# Seen: 36. training_metadata.json names the batch, and nobody reads it: the weights and the optimizer are those after batch
# 6, and the whole epoch is trained on them again. Six batches are seen twice, and a schedule of the learning rate over 30
# steps is at its end before the training is. Nothing is said. With save_freq="epoch" there are 30.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 jax==0.10.2 numpy==2.4.6
cd "$folder"
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import json
from pathlib import Path

import keras
import numpy as np

EPOCHS, BATCHES = 3, 10


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == BATCHES + 6:
            raise InterruptedError


def train(folder, save_freq, *others):
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    network.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, EPOCHS * BATCHES)), loss="mse")
    backup = keras.callbacks.BackupAndRestore(folder, save_freq=save_freq, delete_checkpoint=False)
    rows = np.ones((BATCHES, 2), "float32")
    try:
        network.fit(rows, rows[:, :1], epochs=EPOCHS, batch_size=1, callbacks=[backup, *others], verbose=0)
    except InterruptedError:
        pass
    return int(network.optimizer.iterations)


print("keras", keras.__version__)
for save_freq, wanted in (("epoch", 30), (1, 36)):
    folder = f"backup-{save_freq}"
    stopped = train(folder, save_freq, Stop())
    known = json.loads(Path(folder, "training_metadata.json").read_text())
    updates = train(folder, save_freq)
    print(f"save_freq={save_freq!r}: stopped after {stopped} updates, metadata {known}; {updates} updates in all")
    assert updates == wanted, "what is gone on with has changed"
print("seen as described")
PYTHON
