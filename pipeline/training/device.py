"""What the network runs on, and what follows for compiling it."""

import os


def import_tensorflow_quietly() -> None:
    """Import TensorFlow without its start-up notices.

    They come from its C++ code, some before any setting reaches it, so the stream itself is turned off
    meanwhile. An import that fails still raises.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow as tf

        tf.config.list_physical_devices()  # the first look for a GPU prints, too
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


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
