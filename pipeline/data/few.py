"""A competition cut down to a few rows, to see in a minute whether something runs on it."""

from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.artifacts import write_text
from pipeline.competition import Competition, competition_folder, load_competition
from pipeline.data.competition_data import CompetitionData
from pipeline.data.index import read_quarantine

ROWS = 3


def few_rows(competition: Competition, data: CompetitionData, *, root: Path) -> Competition:
    """The competition with `ROWS` training rows of each class and fold, in the workspace `root`.

    Its folds are those of the whole; it has no test pictures and no extra rows;
    the sample submission says what a metric of its own is given. The pictures are linked to.
    """
    rows = data.train.assign(fold=data.folds.frame["fold"])
    kept = set(rows.groupby(["label", "fold"]).head(ROWS)["id"])
    folder = competition_folder(competition.slug, root=root)
    folder.mkdir(parents=True)
    (folder / "data").symlink_to(competition.data.resolve())
    if competition.metric_file:
        (folder / competition.metric_file.name).symlink_to(competition.metric_file.resolve())
    nothing: dict[str, Any] = {"test": None, "extra": {}}
    write_text(folder / "competition.yaml", competition.model_copy(update=nothing).to_yaml())
    own = load_competition(competition.slug, root=root)
    is_kept = rows["id"].isin(kept)
    rows.loc[is_kept, ["id", "fold"]].to_csv(own.folds_file, index=False)
    left_out = pd.concat([rows.loc[~is_kept, "id"], pd.Series(sorted(read_quarantine(competition)), dtype=str)])
    pd.DataFrame({"id": left_out, "reason": "one of many"}).to_csv(own.quarantine_file, index=False)
    return own
