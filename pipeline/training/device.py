"""The devices that TensorFlow may use, and its silence."""

import os


def import_tensorflow_quietly() -> None:
    """Import TensorFlow without its start-up notices, and leave GPU memory to those who need it.

    The notices come from its C++ code, some before any setting reaches it, so the stream itself is turned off
    meanwhile. An import that fails still raises.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
            # There TensorFlow only feeds the network; by default it would take most of the GPU's memory.
            tf.config.set_visible_devices([], "GPU")
        else:
            for gpu in gpus:
                tf.config.experimental.set_memory_growth(gpu, True)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
