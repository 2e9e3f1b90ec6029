"""How a built kernel carries the package: `kernel.py` writes this file's text, filled in, into the code file.

JOB says what the kernel is to do. PAYLOAD is a zip of the package and the competition's description, in base 85;
where it is too large for a code file it is attached to the kernel instead.
"""

import base64
import io
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

JOB: dict[str, Any] = {}
PAYLOAD = ""


def unpack() -> str:
    """Unpack the payload into a folder that Kaggle does not keep, and put it on the path."""
    inputs, folder = Path(os.environ.get("KAGGLE_ROOT", "/kaggle")) / "input", tempfile.mkdtemp(prefix="kit-")
    text = PAYLOAD
    if not text:
        # Not `**`: that goes through every picture of the competition, and not into links.
        name = f"{JOB['bundle']}.b85"
        attached = next((file for depth in ("*", "*/*", "*/*/*") for file in inputs.glob(f"{depth}/{name}")), None)
        if attached is None:
            sys.exit(f"error: the data set {JOB['bundle']}, which holds the package, is not attached")
        text = attached.read_text("ascii")
    zipfile.ZipFile(io.BytesIO(base64.b85decode(text.replace("\n", "")))).extractall(folder)
    sys.path.insert(0, folder)
    return folder
