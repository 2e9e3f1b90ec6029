"""Small competitions for the tests: real files, tiny pictures, the same on every run; and a local Kaggle to send to."""

import atexit
import dataclasses
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# Before anything imports TensorFlow or albumentations: no log noise, no call to the network.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the kit does
# Tiny pictures, and a worker a core: more threads only get in each other's way.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# JAX: most of a short test is compiling.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.competition import Competition, load_competition
from pipeline.rehearsal.hosted import Hosted, hosted_from
from pipeline.rehearsal.server import Rehearsal
from pipeline.training import engines
from tests.browser import Browser, started_browser
from tests.forked import Forked

# Before anything imports kaggle, which reads this once: no test reaches kaggle.com, or anything else on the network
# (nothing listens on port 9), and none finds the credentials of whoever runs it.
os.environ["KAGGLE_API_ENVIRONMENT"] = "LOCALHOST"
os.environ.update(dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"))
os.environ.update({"no_proxy": "", "NO_PROXY": "", "HOME": tempfile.mkdtemp(prefix="kit-tests-home-")})
atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
for _name in [name for name in os.environ if name.startswith("KAGGLE_") and name != "KAGGLE_API_ENVIRONMENT"]:
    del os.environ[_name]
for _name in ("XDG_CONFIG_HOME", "VERBOSE", "VERBOSE_OUTPUT", "all_proxy", "ALL_PROXY"):
    os.environ.pop(_name, None)


engines.CONTEXT = Forked()  # type: ignore[assignment]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-backbone", action="store_true", help="each network through the whole story: hours")
    parser.addoption("--submissions", type=int, default=40, help="how many are made by clients whose calls fail")
    parser.addoption("--kills", type=int, default=2, help="how often a training is killed, at random moments")


def import_keras_for_good() -> None:
    """Python's collector is kept from going through the hundred thousands of objects that importing has made."""
    import keras

    assert keras.backend.backend()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


# Far apart in RGB, so that a tiny network tells the classes from each other by colour.
COLOURS = ((210, 60, 50), (60, 190, 70), (50, 70, 210), (200, 200, 60), (190, 60, 190), (60, 190, 190))


def make_picture(path: Path, *, colour: int = 0, seed: int = 0, size: tuple[int, int] = (32, 40)) -> Path:
    """Write one picture of `size` (height, width): a colour, noise, and a square whose place tells `seed`."""
    random = np.random.default_rng([colour, seed])
    height, width = size
    pixels = np.array(COLOURS[colour % len(COLOURS)]) + random.integers(-40, 41, (height, width, 3))
    top, left = random.integers(0, height // 2), random.integers(0, width // 2)
    pixels[top : top + height // 4, left : left + width // 4] //= 3
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return path


def make_pictures(
    folder: Path, classes: Mapping[str, int], *, size: tuple[int, int] = (32, 40), suffix: str = ".jpg"
) -> list[Path]:
    """Write `classes[name]` pictures into `folder/name/000.jpg` …, each class in its own colour."""
    return [
        make_picture(folder / name / f"{number:03}{suffix}", colour=colour, seed=number, size=size)
        for colour, (name, count) in enumerate(classes.items())
        for number in range(count)
    ]


def write_table(path: Path, header: str, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return path


def write_competition(root: Path, slug: str, **settings: object) -> Competition:
    """Write `competitions/<slug>/competition.yaml` in the workspace `root` and load it."""
    folder = root / "competitions" / slug
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "competition.yaml").write_text(yaml.safe_dump({"slug": slug, **settings}), "utf-8")
    return load_competition(slug, root=root)


def write_tiny_competition(root: Path) -> Competition:
    """`tiny` in the workspace `root`: 3 classes × 8 pictures of 32×40, 6 test pictures, 2 folds."""
    data = root / "competitions" / "tiny" / "data"
    rows = []
    for colour, label in enumerate(("blue", "green", "red")):
        for number in range(8):
            name = f"{number * 3 + colour:03}.jpg"
            make_picture(data / "train" / name, colour=colour, seed=number)
            rows.append(f"{name},{label}")
    tests = [
        make_picture(data / "test" / f"t{number}.jpg", colour=number % 3, seed=100 + number).name for number in range(6)
    ]
    write_table(data / "train.csv", "id,label", *rows)
    write_table(data / "sample_submission.csv", "id,label", *(f"{name},blue" for name in tests))
    return write_competition(
        root,
        "tiny",
        train={"pictures": "train", "table": "train.csv", "id_column": "id", "label_column": "label"},
        test={"pictures": "test"},
        sample_submission="sample_submission.csv",
        folds=2,
    )


@pytest.fixture
def tiny_competition(tmp_path: Path) -> Competition:
    """The competition of `write_tiny_competition` in the workspace `tmp_path`."""
    return write_tiny_competition(tmp_path)


def host_tiny(root: Path, **changes: Any) -> Hosted:
    """`tiny` as Kaggle would hold it, its files below `root`: picture `t<n>.jpg` is of class n modulo 3."""
    rows = [f"t{number}.jpg,{('blue', 'green', 'red')[number % 3]}" for number in range(6)]
    solution = write_table(root / "solution.csv", "id,label", *rows)
    is_new = not (root / "competitions").exists()  # written again, the data would have another time
    competition = write_tiny_competition(root) if is_new else load_competition("tiny", root=root)
    return hosted_from(competition, solution=solution, **changes)


@pytest.fixture
def rehearse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rehearsal]]:
    """Start a rehearsal of `tiny` and turn this process to it.

    Keywords are attributes of `Hosted` (`daily_limit=1`) or arguments of `Rehearsal` (`scoring_seconds=0.5`).
    The competition lies in `tmp_path/hosted` and the state in `tmp_path/rehearsal`, both outside any workspace a
    test makes of `tmp_path`: called again, it stops the rehearsal and goes on with its state.
    """
    of_hosted = {field.name for field in dataclasses.fields(Hosted)}
    with ExitStack() as running:

        def start(**changes: Any) -> Rehearsal:
            running.close()
            own = {name: value for name, value in changes.items() if name in of_hosted}
            settings = {name: value for name, value in changes.items() if name not in of_hosted}
            hosted = host_tiny(tmp_path / "hosted", **own)
            rehearsal = running.enter_context(Rehearsal(tmp_path / "rehearsal", [hosted], **settings))
            for name, value in rehearsal.environment.items():
                monkeypatch.setenv(name, value)
            return rehearsal

        yield start


@pytest.fixture
def rehearsal(rehearse: Callable[..., Rehearsal]) -> Rehearsal:
    """A rehearsal of `tiny`, running; `rehearsal.hosted["tiny"]` holds the solution."""
    return rehearse()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real pictures beside the repository, which no clone has."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs real pictures in {folder}")
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium without a network; skips where there is none."""
    with started_browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


def manifest_scores(
    score: float, error: float = 0.1, *, tta: float | None = None, folds: Sequence[int] = (0, 1)
) -> dict[str, Any]:
    """The part of a manifest about scores; with `tta` the score with TTA, which is used then."""
    names = [str(fold) for fold in folds]
    used = tta is not None
    return {
        "oof_score": tta if used else score,
        "oof_score_se": error,
        "oof_fold_scores": dict.fromkeys(names, tta if used else score),
        "score": score,
        "score_se": error,
        "fold_scores": dict.fromkeys(names, score),
        "tta_score": tta,
        "tta_score_se": error if used else None,
        "tta_fold_scores": dict.fromkeys(names, tta) if used else None,
        "tta_gain": tta - score if tta is not None else None,
        "tta_gain_se": error if used else None,
        "tta_used": used,
        "tta_used_by_fold": dict.fromkeys(names, used),
        "select_on": "last",
        "folds": list(folds),
        "missing_folds": [],
        "seconds": 5.4,
    }
