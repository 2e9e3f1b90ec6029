"""A competition's folder, made from a folder of data: described, audited, written whole or not at all."""

import os
import shutil
from pathlib import Path

import pandas as pd

from pipeline.artifacts import atomic_folder
from pipeline.competition import Competition, competition_folder
from pipeline.data.audit import Audit, audit
from pipeline.data.index import scan_rows
from pipeline.data.infer import Finding, infer
from pipeline.data.infer_table import groups_by_pattern
from pipeline.data.infer_wishes import Wishes
from pipeline.data.remedies import refuse_groups_without_effect, write_groups
from pipeline.errors import DataError


def init_competition(slug: str, data: Path, *, root: Path, wishes: Wishes) -> tuple[Competition, list[Finding], Audit]:
    """Infer `competitions/<slug>/competition.yaml` from `data`, audit the data, and write the folder.

    Rows that cannot be trained on go into quarantine.csv. The data itself is linked to, not copied.

    Raises:
        DataError: The competition exists, or the data cannot be read in one way.
    """
    folder = competition_folder(slug, root=root)
    if (folder / "competition.yaml").exists():
        raise DataError(
            f"the competition {slug} exists already ({folder / 'competition.yaml'})",
            expected="a new slug",
            next_step="edit that file, or remove it to infer it anew",
        )
    if not data.is_dir():
        raise DataError(
            f"{data} is a file, not a folder" if data.is_file() else f"the folder {data} does not exist",
            expected="the folder of the competition's data, unpacked",
            next_step="check --data",
        )
    present = folder / "data"
    if present.is_dir() and not present.is_symlink() and present.resolve() != data.resolve():
        raise DataError(
            f"{present} holds other data than {data}",
            expected="one of them",
            next_step=f"remove it, or describe it itself: --data {present}",
        )
    competition, findings = infer(slug, data, wishes)
    shutil.rmtree(folder.parent / f".{slug}.new", ignore_errors=True)  # of a run that was killed
    with atomic_folder(folder.parent / f".{slug}.new") as draft:
        (draft / "data").symlink_to(data.resolve())
        drafted = competition.model_copy(update={"folder": draft})
        try:
            if wishes.group_pattern:
                refuse_groups_without_effect(drafted, option="--group-pattern")
                write_groups(drafted, groups_by_pattern(list(scan_rows(drafted).rows["id"]), wishes.group_pattern))
            audited = audit(drafted)
        except DataError as error:
            # The user knows the data by its own path, not by that of the draft.
            problem = error.problem.replace(str(draft / "data"), str(data))
            raise DataError(problem, expected=error.expected, next_step=error.next_step) from None
        (draft / "competition.yaml").write_text(competition.to_yaml(), "utf-8")
        if audited.faults:
            faults = pd.DataFrame(sorted(audited.faults.items()), columns=["id", "reason"])
            faults.to_csv(draft / "quarantine.csv", index=False)
    _settle(folder.parent / f".{slug}.new", folder)
    return competition.model_copy(update={"folder": folder}), findings, audited


def _settle(draft: Path, folder: Path) -> None:
    """Move the draft into place; data that lies in the folder already stays where it is."""
    folder.mkdir(exist_ok=True)
    for of_earlier in ("quarantine.csv", "groups.csv"):  # the data may have been mended since
        (folder / of_earlier).unlink(missing_ok=True)
    shutil.rmtree(folder / "explore", ignore_errors=True)  # likewise
    for file in sorted(draft.iterdir(), key=lambda path: path.name == "competition.yaml"):
        if file.name == "data" and (folder / "data").is_dir() and not (folder / "data").is_symlink():
            continue
        os.replace(file, folder / file.name)
    shutil.rmtree(draft)
