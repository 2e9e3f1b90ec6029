#!/usr/bin/env bash
# TensorFlow 2.21.0 with Keras 3.15.1 on Python 3.11: `import tensorflow` alone loads scikit-learn (with scipy.stats),
# matplotlib.pyplot and JAX wherever they are installed, and takes about twice the computing.
#
# Expected: packages that TensorFlow does not depend on are loaded by the functions that use them, as Keras is said to load
# its backends.
# Seen: keras.wrappers imports scikit-learn, keras.visualization Matplotlib, and tf.lite JAX, at once, each in a `try` that
# takes a missing one for granted. Said to be missing, they save half: every process that a training starts pays otherwise.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    tensorflow==2.21.0 keras==3.15.1 scikit-learn==1.9.1 matplotlib==3.11.2 jax==0.10.2
cd "$folder"
cat >loads.py <<'PYTHON'
import resource
import sys

hidden = sys.argv[1:]
sys.modules.update(dict.fromkeys(hidden))
import tensorflow

for name in hidden:
    del sys.modules[name]
used = resource.getrusage(resource.RUSAGE_SELF)
loaded = [name for name in ("sklearn", "scipy.stats", "matplotlib.pyplot", "jax") if name in sys.modules]
print(f"{used.ru_utime + used.ru_stime:.1f} s of computing, loaded: {' '.join(loaded) or 'none of them'}")
PYTHON
export TF_CPP_MIN_LOG_LEVEL=3
venv/bin/python -c 'import keras, tensorflow; print("tensorflow", tensorflow.__version__, "keras", keras.__version__)' 2>stderr
venv/bin/python loads.py 2>stderr | tee all
venv/bin/python loads.py sklearn matplotlib jax 2>stderr | tee none
grep -q "loaded: sklearn scipy.stats matplotlib.pyplot jax" all
grep -q "loaded: none of them" none
echo "seen as described"
