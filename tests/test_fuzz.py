"""Files that nobody would write by intent: whatever stands in them is used, or is an error that a user can mend.

A few inputs a test here; `FUZZ=2500 pytest tests/test_fuzz.py` tries 2,500 in each, which takes minutes.
"""

import copy
import datetime
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.artifacts import Workspace
from pipeline.competition import Competition, load_competition
from pipeline.data.competition_data import load_data
from pipeline.data.describe import init_competition
from pipeline.data.explore import explore
from pipeline.data.infer_wishes import Wishes
from pipeline.errors import KitError
from pipeline.recipe import load_recipe, shipped_recipes, smoke
from pipeline.submit.submission import check_submission, write_submission
from tests.conftest import make_picture, write_competition, write_table
from tests.test_serve import OWN, client_of

FUZZ = int(os.environ.get("FUZZ", "0"))
fuzzed = settings(
    max_examples=FUZZ or 15,
    derandomize=not FUZZ,  # in the suite the same every time
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
ODD = [
    "",
    " ",
    ".",
    "..",
    "../..",
    "/dev",
    "~",
    "a\0b",
    "x" * 300,
    "train/x",
    "\n",
    "|",
    ",",
    '"',
    "é",
    "🂡",
    "=1",
    "nan",
    "-1",
]
WORDS = [
    "train",
    "test",
    "train.csv",
    "sample_submission.csv",
    "id",
    "label",
    "0.png",
    "6.png",
    "blue",
    "red",
    "0",
    "1",
]
SETTINGS = [
    "multilabel",
    "probability",
    "probabilities",
    "names",
    "ranked",
    "long",
    "path",
    "path_stem",
    "stem",
    "number",
]
SETTINGS += [
    "log_loss",
    "roc_auc",
    "map@2",
    "quadratic_kappa",
    "macro_f1",
    "metric.py",
    "(?P<label>[0-9])",
    "(?P<label>",
    "|",
]
text = st.sampled_from(ODD) | st.sampled_from(WORDS) | st.text(max_size=6)
number = st.sampled_from([0, 1, 2, 3, 50, -1, 2**31, 2**32, 2**63, 2**70]) | st.integers(-3, 9)
rare = [None, True, False, 2**70, float("nan"), float("inf"), 1e-300, b"", datetime.date(1, 1, 1)]
leaf = text | st.sampled_from(rare) | number | st.floats()
value = st.recursive(
    leaf, lambda some: st.lists(some, max_size=3) | st.dictionaries(leaf, some, max_size=3), max_leaves=5
)


@st.composite
def edited_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file, some of whose bytes are others, gone, or more."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(whole)))
        end = start + draw(st.sampled_from([0, 1, 2, 40, len(whole)]))
        new = st.binary(max_size=4) | st.text(st.characters(codec="ascii"), max_size=4).map(str.encode)
        whole = whole[:start] + draw(new) + whole[end:]
    return whole


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Each mapping and list in it with each of its keys."""
    for key, inner in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def like(old: Any) -> st.SearchStrategy[Any]:
    if isinstance(old, bool) or not isinstance(old, str | int | float):
        return st.booleans() | leaf
    return text | st.sampled_from(SETTINGS) if isinstance(old, str) else number | st.floats(allow_nan=False)


def mostly(strategy: st.SearchStrategy[bytes], other: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.integers(0, 4).flatmap(lambda which: strategy if which else other)


@st.composite
def edited_tree(draw: st.DrawFn, tree: Any) -> Any:
    """Settings, some of which have another value, are gone, or have others beside them."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        here, key = draw(st.sampled_from(list(places(tree)) or [({}, "")]))
        match draw(st.integers(0, 7)):
            case 0 if key in here or isinstance(here, list):
                del here[key]
            case 1 if isinstance(here, dict):
                here[draw(leaf)] = draw(value)
            case 2:
                here[key] = draw(value)
            case _:  # mostly of the same type, so that it is not refused for that
                here[key] = draw(like(here[key]))
    return tree


@st.composite
def edited_table(draw: st.DrawFn, table: str) -> bytes:
    """A CSV file, some of whose cells or rows are others, gone, twice there, or too many."""
    rows = [line.split(",") for line in table.splitlines()]
    for _ in range(draw(st.integers(1, 4))):
        number = draw(st.integers(0, len(rows) - 1))
        match draw(st.integers(0, 5)):
            case 0 if len(rows) > 1:
                del rows[number]
            case 1:
                rows.append(rows[number])
            case 2:
                rows[number] = [*rows[number], draw(text)]
            case 3 if rows[number]:
                del rows[number][-1]
            case 4:
                rows = [[*row, draw(text)] for row in rows]
            case _ if rows[number]:
                rows[number][draw(st.integers(0, len(rows[number]) - 1))] = draw(text)
    return "\n".join(",".join(row) for row in rows).encode("utf-8", "replace")


_watched: list[Path] = []
_written_outside: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note each file that Python opens to write, makes, moves or removes outside the watched folder."""
    if not _watched:
        return
    if event == "open":
        paths = arguments[:1] if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else ()
    elif event in {"os.remove", "os.rmdir"} and arguments[-1] != -1:
        return  # by its name in a folder that is open: its folder is removed, which is looked at
    elif event in {"os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate"}:
        paths = tuple(one for one in arguments if isinstance(one, str | bytes))[-2 if event == "os.rename" else -1 :]
    else:
        return
    for path in paths:
        apart = {os.devnull} | {path for path in paths if "__pycache__" in str(path)}
        if isinstance(path, str) and path not in apart and not Path(path).resolve().is_relative_to(_watched[0]):
            _written_outside.append(f"{event} {path}")


sys.addaudithook(_watch)


@contextmanager
def nothing_worse_than_an_error(workspace: Path) -> Iterator[None]:
    """Only a `KitError`, or none, ends the block, and nothing is written outside the workspace."""
    _written_outside.clear()
    _watched.append(workspace.resolve())
    try:
        with suppress(KitError):
            yield
    finally:
        _watched.clear()
    assert _written_outside == []


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Competition]:
    """Two classes of three pictures, two pictures to predict: as small as can be, as it is read thousands of times."""
    root = tmp_path_factory.mktemp("outside") / "workspace"
    data = root / "competitions" / "tiny" / "data"
    for number in range(8):
        part = "train" if number < 6 else "test"
        make_picture(data / part / f"{number}.png", colour=number % 2, seed=number, size=(8, 8))
    write_table(data / "train.csv", "id,label", *(f"{number}.png,{('blue', 'red')[number % 2]}" for number in range(6)))
    write_table(data / "sample_submission.csv", "id,label", "6.png,blue", "7.png,blue")
    before, tempfile.tempdir = tempfile.tempdir, str(root)
    train = {"pictures": "train", "table": "train.csv", "id_column": "id", "label_column": "label"}
    files = {"test": {"pictures": "test"}, "sample_submission": "sample_submission.csv"}
    yield write_competition(root, "tiny", train=train, **files, folds=2)
    tempfile.tempdir = before


def root_of(competition: Competition) -> Path:
    return competition.folder.parent.parent


def use(competition: Competition, root: Path) -> None:
    """What is done with a competition before the first batch, and after the last."""
    competition.folds_file.unlink(missing_ok=True)
    competition = load_competition(competition.slug, root=root)
    with suppress(KitError):
        explore(competition)
    data = load_data(competition)
    shares = np.random.default_rng(0).random((len(data.test), len(data.classes)), dtype=np.float32)
    predictions = pd.DataFrame(shares, columns=data.classes)
    predictions.insert(0, "id", list(data.test["id"]), allow_duplicates=True)
    written = write_submission(
        competition,
        predictions,
        data.classes,
        experiment="fuzz",
        score=0.5,
        workspace=Workspace(root),
        now=datetime.datetime(2026, 1, 1),
    )
    written.unlink()


@contextmanager
def replaced(file: Path, content: bytes) -> Iterator[None]:
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


def test_competition_yaml(tiny: Competition) -> None:
    whole = tiny.model_dump(mode="json", exclude_none=True)  # with every setting that has a default
    fuller = whole | {"metric": "log_loss", "submission": "probabilities", "extra": {"more": {"pictures": "train"}}}
    trees = st.sampled_from([whole, fuller]).flatmap(edited_tree).map(yaml.safe_dump).map(str.encode)

    @fuzzed
    @given(mostly(trees, edited_bytes(tiny.file.read_bytes())))
    def run(content: bytes) -> None:
        with replaced(tiny.file, content), nothing_worse_than_an_error(root_of(tiny)):
            use(tiny, root_of(tiny))

    run()


def test_recipes(tmp_path: Path) -> None:
    shipped = {name: text.encode() for name, text in shipped_recipes().items()}
    trees = st.sampled_from([load_recipe(name).model_dump(mode="json") for name in shipped]).flatmap(edited_tree)
    trees = trees.map(yaml.safe_dump).map(str.encode)
    file = tmp_path / "recipe.yaml"
    settings_of = st.lists(
        st.tuples(st.sampled_from(["seed", "stages.0.epochs", "stages.*.schedule", "a.b"]) | text, text)
    )

    @fuzzed
    @given(mostly(trees, st.sampled_from(list(shipped.values())).flatmap(edited_bytes)), settings_of)
    def run(content: bytes, changes: list[tuple[str, str]]) -> None:
        with suppress(KitError):
            load_recipe("demo", overrides=[f"{path}={value}" for path, value in changes])
        file.write_bytes(content)
        with nothing_worse_than_an_error(tmp_path):
            recipe = load_recipe(str(file))
            recipe.fingerprint()
            smoke(recipe, side=32)

    run()


@pytest.mark.parametrize("name", ["train.csv", "sample_submission.csv"])
def test_tables(tiny: Competition, name: str) -> None:
    file, root = tiny.data / name, root_of(tiny)
    whole = file.read_bytes()

    @fuzzed
    @given(edited_table(whole.decode()) | edited_bytes(whole) | st.binary(max_size=60))
    def run(content: bytes) -> None:
        with replaced(file, content), nothing_worse_than_an_error(root):
            use(tiny, root)
        other = root / "given.csv"
        other.write_bytes(content)
        with nothing_worse_than_an_error(root):
            check_submission(tiny, other, classes=["blue", "red"])
        with replaced(file, content), nothing_worse_than_an_error(root):
            described = root / "competitions" / "other"
            (described / "competition.yaml").unlink(missing_ok=True)
            init_competition("other", tiny.data, root=root, wishes=Wishes())

    run()


def pictures() -> list[bytes]:
    """A picture of each format."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    found = []
    for format in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format)
        found.append(file.getvalue())
    return found


def test_uploaded_pictures(tmp_path: Path) -> None:
    client: FlaskClient = client_of(lambda picture: np.asarray(picture.reshape(-1, 3).mean(axis=0), dtype=np.float32))

    @fuzzed
    @given(st.sampled_from(pictures()).flatmap(edited_bytes) | st.binary())
    def run(content: bytes) -> None:
        with nothing_worse_than_an_error(tmp_path):
            answer = client.post("/predict", data=content, headers=OWN)
            assert answer.status_code == 200
            assert len({"classes", "problem"} & set(answer.get_json())) == 1

    run()
