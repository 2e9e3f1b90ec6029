"""Completion by Tab, in a real bash: commands and names."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.test_cli import HEAVY, experiment, workspace

KIT = Path(sys.executable).with_name("kit")
OFFERED = {
    "kit tra": "train",
    "kit train colou": "colours.yaml",
    "kit train progressive-": "progressive-b7 progressive-lite progressive-mobilenet",
    "kit train demo ": "tiny",
    "kit lr-find demo ": "tiny",
    "kit folds t": "tiny",
    "kit folds x": "",
    "kit predict ": "made",
    "kit submit m": "made",
    "kit oof compare made ": "made",
    "kit report --competition tiny ": "made",
    "kit report --competition other ": "",
    "kit oof list --competition ": "tiny",
    "kit kernel run ": "mine",
    "kit submit --kernel m": "mine",
    "kit serve --po": "--port",
}
# As bash does at a Tab: the words, and which of them is being written.
ASK = """
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _kit_completion kit; echo "${COMPREPLY[*]}"; }
"""
__all__ = ["experiment", "workspace"]


def bash(script: str, folder: Path, **changes: str) -> str:
    """What a script prints in a bash that finds `kit`, and nothing else of the user's."""
    environment = {**os.environ, "PATH": f"{KIT.parent}{os.pathsep}{os.environ['PATH']}", **changes}
    command = ["bash", "--norc", "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def test_names_are_offered_where_they_are_asked_for(workspace: Path, experiment: pd.DataFrame) -> None:
    (workspace / "kernels/mine").mkdir(parents=True)
    (workspace / "kernels/mine/kernel-metadata.json").write_text("{}", "utf-8")
    asked = [words.split() + [""] * words.endswith(" ") for words in OFFERED]
    lines = "\n".join("ask " + " ".join(f"'{word}'" for word in words) for words in asked)
    said = bash(f'set -e\neval "$(kit --show-completion)"\n{ASK}\n{lines}', workspace).splitlines()
    assert dict(zip(OFFERED, said, strict=True)) == OFFERED


def test_completion_is_installed_for_the_next_bash(tmp_path: Path) -> None:
    bash("kit --install-completion; true", tmp_path, HOME=str(tmp_path))
    assert "-F _kit_completion kit" in bash("source ~/.bashrc && complete -p kit", tmp_path, HOME=str(tmp_path))


@pytest.mark.parametrize("words", ["kit train ", "kit train demo ", "kit predict "])
def test_a_tab_loads_nothing_heavy(words: str, workspace: Path, experiment: pd.DataFrame) -> None:
    environment = {"_KIT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()))}
    command = [sys.executable, "-X", "importtime", str(KIT)]
    done = subprocess.run(
        command, cwd=workspace, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert done.stdout.split()
    assert not loaded & HEAVY
