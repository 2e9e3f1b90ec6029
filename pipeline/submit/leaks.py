"""What must not leave this machine with a kernel or its data set: credentials, and paths that name its user."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.artifacts import Workspace
from pipeline.errors import KitError


def refuse_leaks(texts: Mapping[str, str], workspace: Workspace) -> None:
    """Refuse texts by file name that hold a secret or a path of this machine: a kernel is public with a click.

    Raises:
        KitError: One does; the secret itself is not in the message.
    """
    private = list(_private(workspace))
    for file, text in texts.items():
        for what, needle in private:
            if needle in text:
                raise KitError(
                    f"{file} would hold {what}, and it goes to Kaggle",
                    expected="a kernel that says nothing of this machine and its user",
                    next_step="remove it from the template, the recipe or competition.yaml",
                )


def _private(workspace: Workspace) -> Iterator[tuple[str, str]]:
    """What must not leave this machine, with its name."""
    for key, value in os.environ.items():
        if key.startswith("KAGGLE_") and re.search("KEY|TOKEN", key) and len(value) >= 8:
            yield f"the value of {key}", value
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    own = os.environ.get("KAGGLE_CONFIG_DIR")
    for folder in {Path.home() / ".kaggle", settings, *([Path(own)] if own else [])}:
        for file in sorted(path for path in folder.glob("*") if path.is_file()):
            for secret in re.findall(r"[\w.-]{20,}", file.read_text("utf-8", "replace")):
                yield f"a secret of {file}", secret
    for path in {str(workspace.root.resolve()), str(Path.home())} - {"/"}:
        yield "a path of this machine", path + "/"
