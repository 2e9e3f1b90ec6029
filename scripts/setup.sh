# Sourced by the other scripts: makes .venv with the kit in it, once; afterwards only puts it on PATH.
#
#   setup_kit [EXTRA]     EXTRA is an extra of setup.cfg, such as `dev`
#
# Uses uv where it is installed, else venv and pip. PYTHON names another interpreter than python3.

setup_kit() {
    local extra="${1:-}" python="${PYTHON:-python3}" target="." stamp wanted
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || return 1
    [ -n "$extra" ] && target=".[$extra]"
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "error: $python is not Python 3.11 or later ($("$python" --version 2>&1))" >&2
        echo "  next: install it, or name one: PYTHON=/path/to/python3.12 $0" >&2
        return 1
    fi
    # An extra is a superset of the plain set-up, so having it is enough for the scripts that do not need it.
    wanted="$(cat setup.cfg constraints.txt | cksum)"
    for stamp in ".venv/kit-$extra" ".venv/kit-dev"; do
        if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
            PATH="$PWD/.venv/bin:$PATH"
            return 0
        fi
    done
    echo "setting up .venv (TensorFlow is large: a few minutes, the first time only)"
    if command -v uv >/dev/null; then
        install_with_uv "$target" || { echo "uv could not do it; trying pip"; install_with_pip "$target"; } || return 1
    else
        install_with_pip "$target" || return 1
    fi
    leave_bytecode || return 1
    echo "$wanted" > ".venv/kit-$extra"
    PATH="$PWD/.venv/bin:$PATH"
    echo "set up in ${SECONDS} s"
}

# Makes .venv-kaggle, once: Python 3.12 with the versions of Kaggle's image and without the kit. PYTHON312 names another
# interpreter than python3.12.
setup_kaggle_image() {
    local python="${PYTHON312:-python3.12}" wanted
    wanted="$(cksum < requirements-kaggle.txt)"
    [ -f .venv-kaggle/ready ] && [ "$(cat .venv-kaggle/ready)" = "$wanted" ] && return 0
    if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then
        echo "error: $python is not Python 3.12, which Kaggle's image has" >&2
        echo "  next: install it, or name one: PYTHON312=/path/to/python3.12 $0" >&2
        return 1
    fi
    echo "setting up .venv-kaggle, the versions of Kaggle's image"
    rm -rf .venv-kaggle
    "$python" -m venv .venv-kaggle || return 1
    .venv-kaggle/bin/pip install --quiet --disable-pip-version-check -r requirements-kaggle.txt || return 1
    echo "$wanted" > .venv-kaggle/ready
}

install_with_uv() {
    [ -d .venv ] || uv venv --quiet --python "$python" .venv || return 1
    VIRTUAL_ENV="$PWD/.venv" uv pip install --quiet --constraint constraints.txt --editable "$1"
}

# Imports what a training imports, so that its bytecode is there. Where PYTHONDONTWRITEBYTECODE is set, as in many
# containers, nothing else would ever write it, and each process, which each fold is, would compile TensorFlow anew.
# Elsewhere the first training would do the same work. All files of all packages would take several times as long.
leave_bytecode() {
    env -u PYTHONDONTWRITEBYTECODE NO_ALBUMENTATIONS_UPDATE=1 .venv/bin/python -c "
from pipeline.training.device import import_tensorflow_quietly
import_tensorflow_quietly()
import albumentations, keras, pipeline.cli, pipeline.report.plots, pipeline.training.cross_validate"
}

# With the uv that pip itself installs, if that works: it takes a fraction of pip's time.
install_with_pip() {
    [ -x .venv/bin/pip ] || "$python" -m venv .venv || return 1
    local pip=(.venv/bin/pip install --quiet --disable-pip-version-check)
    if "${pip[@]}" uv && PATH="$PWD/.venv/bin:$PATH" install_with_uv "$1"; then
        return 0
    fi
    "${pip[@]}" --constraint constraints.txt --editable "$1"
}
