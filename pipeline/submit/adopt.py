"""What a kernel made, taken over into oof/ and runs/ where it fits what is there.

Of what is there only what is unfinished is replaced: a fold that was begun, by a finished one; a result of fewer folds,
by one of more that has the same rows.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts import Workspace, atomic_folder, atomic_path, read_json
from pipeline.errors import KitError

_MANIFEST = "manifest.json"
_FOLD = "fold.json"  # written last
_IDENTITY = (
    *("fingerprint", "data_sha256", "folds_sha256", "extra_sha256", "groups_sha256", "classes"),
    *("metric", "metric_sha256", "class_weights", "positive"),
)


def adopt(output: Path, competition: str, experiment: str, *, workspace: Workspace) -> tuple[Path, ...]:
    """Copy what an output holds into runs/ and oof/; what is finished here stays as it is.

    Raises:
        KitError: There is an experiment of that name made from another recipe, other data or other folds, or with
            other results. Nothing is copied then.
    """
    where = competition, experiment
    run, own_run = output / "runs" / Path(*where), workspace.run(*where)
    result, own_result = output / "oof" / Path(*where), workspace.oof(*where)
    for theirs, ours in ((run / "run.json", own_run / "run.json"), (result / _MANIFEST, own_result / _MANIFEST)):
        if theirs.is_file() and ours.is_file():
            changed = [key for key in _IDENTITY if read_json(theirs).get(key) != read_json(ours).get(key)]
            _require_no(changed, ours.parent, output)
    folds = [folder for folder in sorted(run.glob("fold-*")) if (folder / _FOLD).is_file()]
    other = [fold.name for fold in folds if _differs(fold / "oof.parquet", own_run / fold.name / "oof.parquet")]
    _require_no(other, own_run, output)
    if _differs(result / "oof.parquet", own_result / "oof.parquet"):
        _require_no(["predictions"], own_result, output)
    adopted = []
    if (run / "run.json").is_file():
        for folder in sorted(run.glob("fold-*")):
            own = own_run / folder.name
            if not own.exists() or ((folder / _FOLD).is_file() and not (own / _FOLD).is_file()):
                _copy_folder(folder, own)
        own_run.mkdir(parents=True, exist_ok=True)
        for file in (path for path in run.iterdir() if path.suffix == ".json"):
            if not (own_run / file.name).exists():
                with atomic_path(own_run / file.name) as own:
                    shutil.copyfile(file, own)
        adopted.append(own_run)
    if (result / _MANIFEST).is_file():
        if _folds_of(result) > _folds_of(own_result):
            _copy_folder(result, own_result)
        adopted.append(own_result)
    return tuple(adopted)


def _folds_of(result: Path) -> frozenset[int]:
    """The folds that a result is of; none where there is no result."""
    file = result / _MANIFEST
    return frozenset(read_json(file)["folds"]) if file.is_file() else frozenset()


def _differs(theirs: Path, ours: Path) -> bool:
    """Whether both are there and predict otherwise a row that both hold."""
    from pipeline.predictions.store import read_predictions

    if not (ours.is_file() and theirs.is_file()):
        return False
    one, other = (read_predictions(file).set_index("id") for file in (theirs, ours))
    common = one.index.intersection(other.index)
    return not one.loc[common].equals(other.loc[common])


def _require_no(changed: Sequence[str], here: Path, output: Path) -> None:
    if changed:
        raise KitError(
            f"{here} holds another experiment of that name: {', '.join(changed)} differ from the kernel's",
            expected="the same experiment, or none of that name",
            next_step=f"nothing was copied, and the output lies in {output}; build the kernel with another --suffix, "
            f"or remove {here} and fetch again: kit kernel output",
        )


def _copy_folder(source: Path, target: Path) -> None:
    """A copy, so that the output as fetched stays whole; what is unfinished at `target` goes once it is there."""
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
