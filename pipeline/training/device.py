"""What the network runs on, and what follows for compiling it."""

import os


def quiet_tensorflow() -> None:
    """Keep TensorFlow's start-up notices off the terminal; must come before its import."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def jit_compile() -> bool:
    """Whether to compile with XLA: on an accelerator, and always under JAX, which has no other way.

    On a CPU TensorFlow's oneDNN kernels are about ten times as fast as XLA's for these networks
    (benchmarks/RESULTS.md), so Keras' own choice, which is XLA everywhere, is not taken.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
