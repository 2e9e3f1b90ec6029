"""What a built kernel does when it runs on Kaggle; the templates in kernels/ call this file.

    /kaggle/input       competition data, data sets and outputs of other kernels, read only; under paths that have
                        changed over the years, so everything is found by the names of its files
    /kaggle/working     the output: oof/, runs/ (weights and logs), submission.csv, kernel.json

`KAGGLE_ROOT` names another folder than /kaggle. The only file beside the command line that prints.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.competition import Competition, load_competition
from pipeline.errors import DataError, KitError, OutOfTime, counted
from pipeline.recipe import Recipe, parse_recipe
from pipeline.session import training_seconds
from pipeline.submit.unzip import hoist, unpack

REPORT = "kernel.json"
_DEPTH = 5  # of folders below /kaggle/input that are searched
_LONGEST_START = 600.0  # seconds from a process's beginning to here


def process_started() -> float:
    """Unix time in seconds at which this process began, or now where /proc does not tell, or tells what cannot be.

    The field is `starttime` of proc(5). A sandbox may count it by another clock: believed, that would end a session
    at once.
    """
    now = time.time()
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return now
    return now - age if 0 <= age < _LONGEST_START else now


_STARTED = process_started()  # not when this file is imported: reading the packages may have taken many seconds


@contextmanager
def session(job: Mapping[str, Any], folder: str) -> Iterator["Session"]:
    """Run a job; `kernel.json` in the output says how it ended.

    Running out of time is no failure: what is finished is kept, and a kernel that goes on from it can follow.
    A mistake of the user's ends with its message and without a traceback.

    Args:
        job: The fields of `pipeline.submit.kernel.Job`.
        folder: Where the payload was unpacked.
    """
    run = Session(job, Path(folder), Path(os.environ.get("KAGGLE_ROOT", "/kaggle")))
    run.report("failed", "the kernel did not end by itself")
    try:
        run.prepare()
        yield run
    except OutOfTime as error:
        print(f"stopped: {error}", flush=True)
        run.report("stopped", str(error))
    except KitError as error:
        run.report("failed", str(error))
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    else:
        run.report("finished", "")


class Session:
    """One run of a kernel."""

    def __init__(self, job: Mapping[str, Any], folder: Path, root: Path) -> None:
        self.job, self.folder = job, folder
        self.inputs, self.output = root / "input", root / "working"
        # Decoded pictures are no output.
        self.workspace = Workspace(self.output, scratch=folder / "scratch")
        self.bundle: Path | None = None

    def prepare(self) -> None:
        """Make what was attached usable: the bundle's weights and packages.

        Raises:
            DataError: The bundle is not attached, or is another one.
        """
        self.bundle = self._find_bundle()
        self._use_bundle()
        self._install()

    @property
    def recipe(self) -> Recipe:
        settings = dict(self.job["recipe"])
        attached = self.bundle / Path(settings["weights"]).name if self.bundle else None
        if attached and attached.is_file():
            settings["weights"] = str(attached)
        return parse_recipe(settings, source="of the kernel")

    @property
    def competition(self) -> Competition:
        """The competition's description from the payload, its data where Kaggle put it.

        Raises:
            DataError: The data is not attached.
        """
        slug, files = self.job["competition"], self.job["files"]
        link = self.folder / "competitions" / slug / "data"
        if not link.exists():
            data = next(find_folders(self.inputs, lambda folder: all(holds(folder, name) for name in files)), None)
            if data is None:
                raise DataError(
                    f"no folder below {self.inputs} holds {', '.join(files)}",
                    expected=f"the data of the competition {slug}; attached are: {', '.join(attached(self.inputs))}",
                    next_step="name the competition in kernel-metadata.json: competition_sources, and accept its rules",
                )
            print(f"data: {data}", flush=True)
            show_data(data, files, link)
        return load_competition(slug, root=self.folder)

    def continue_run(self) -> None:
        """Take over the finished folds and stages of earlier kernels of this experiment, where some are attached."""
        run = Path("runs", self.job["competition"], self.job["experiment"])
        found = find_folders(self.inputs, lambda folder: (folder / run / "run.json").is_file())
        # The newest first: of a fold that several have begun, it has come the furthest.
        for earlier in sorted(found, key=written, reverse=True):
            print(f"going on from {earlier}", flush=True)
            for part in sorted((earlier / run).iterdir()):
                own = self.output / run / part.name
                if not own.exists() or ((part / "fold.json").is_file() and not (own / "fold.json").is_file()):
                    copy_files(part, own)

    def train(self) -> None:
        """Train the job's folds; the OOF predictions of those that are done are merged and scored."""
        from pipeline.report.plots import plot_learning_curves
        from pipeline.report.tables import result_text
        from pipeline.training.cross_validate import cross_validate
        from pipeline.training.engines import log_to_stdout
        from pipeline.training.fold import Machine
        from pipeline.training.result import learning_curves

        log_to_stdout()
        recipe, competition, experiment = self.recipe, self.competition, self.job["experiment"]
        machine = Machine(stop_at=_STARTED + training_seconds(self.job["session_seconds"]))
        print(
            f"{experiment} on {competition.slug}: {recipe.backbone}, {counted(len(recipe.stages), 'stage', 'stages')}",
            flush=True,
        )
        try:
            manifest = cross_validate(
                recipe,
                competition,
                experiment=experiment,
                workspace=self.workspace,
                folds=self.job["folds"],
                machine=machine,
            )
        finally:
            curves = learning_curves(
                self.workspace.run(competition.slug, experiment), [stage.name for stage in recipe.stages]
            )
            plot_learning_curves(
                curves,
                self.workspace.oof(competition.slug, experiment),
                title=f"{experiment} on {competition.slug}",
                metric=competition.metric,
                select_on=recipe.select_on.kind,
            )
        print("\n" + result_text(manifest), flush=True)

    def predict(self) -> None:
        """Predict the test pictures that are there now with all fold models, and write submission.csv."""
        from pipeline.data.index import test_index
        from pipeline.predictions.decide import decision_from
        from pipeline.predictions.store import prediction_frame
        from pipeline.submit.submission import write_checked
        from pipeline.training.device import import_tensorflow_quietly
        from pipeline.training.predict import at_sizes, predict_folds

        import_tensorflow_quietly()
        model, competition = self.job["model"], self.competition
        bundle, test = self.bundle or self.inputs, test_index(competition)
        sizes = [(height, width) for height, width in model["sizes"]]
        found = predict_folds(
            self.recipe,
            [bundle / f"fold-{fold}.weights.h5" for fold in model["folds"]],
            at_sizes(list(test["path"]), sizes, self.workspace.cache(competition.slug)),
            classes=len(model["classes"]),
            target=competition.target,
            with_views=model["tta_used"],
        )
        frame = prediction_frame(list(test["id"]), found, model["classes"])
        path = self.output / "submission.csv"
        decision = decision_from(model["decision"]) if model["decision"] else None
        write_checked(competition, frame, model["classes"], path=path, decision=decision)
        print(f"wrote {path}: {len(frame)} pictures, {len(model['folds'])} fold models", flush=True)

    def report(self, state: str, message: str) -> None:
        """Write kernel.json."""
        write_json(
            self.output / REPORT,
            {
                "build": self.job["build"],
                "competition": self.job["competition"],
                "experiment": self.job["experiment"],
                "state": state,
                "message": message,
                "seconds": round(time.time() - _STARTED, 1),
                "written": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )

    def _find_bundle(self) -> Path | None:
        """The data set this kernel was built with, if it needs one.

        Raises:
            DataError: It is not attached, or another version of it is.
        """
        wanted, slug = self.job["bundle_sha256"], self.job["bundle"]
        if not wanted:
            return None
        found = next(find_folders(self.inputs, lambda folder: (folder / f"{slug}.json").is_file()), None)
        there = read_json(found / f"{slug}.json")["sha256"] if found else ""
        if found is None or there != wanted:
            raise DataError(
                f"the data set {slug} is {'not the one this kernel was built with' if found else 'not attached'}",
                expected=f"its version with the files {wanted[:12]}…; attached are: {', '.join(attached(self.inputs))}",
                next_step="kit kernel bundle, then push again",
            )
        return found

    def _use_bundle(self) -> None:
        """Put the bundle's packages on the path and its published weights where Keras looks for them."""
        models = self.folder / "keras" / "models"
        models.mkdir(parents=True)
        os.environ["KERAS_HOME"] = str(models.parent)
        for file in sorted(self.bundle.iterdir()) if self.bundle else ():
            if file.suffix == ".whl":
                # The folder is on the path already; the wheels are of Python alone.
                zipfile.ZipFile(file).extractall(self.folder)
            elif file.suffix == ".h5":
                (models / file.name).symlink_to(file)

    def _install(self) -> None:
        """Fetch packages that Kaggle's image lacks, where the kernel has internet and no bundle brought them."""
        missing = [name for name in self.job["packages"] if importlib.util.find_spec(module_of(name)) is None]
        if missing and self.job["internet"]:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(self.folder)]
            subprocess.run([*pip, *missing], check=False)
            importlib.invalidate_caches()
            missing = [name for name in missing if importlib.util.find_spec(module_of(name)) is None]
        if missing:
            print(f"without {', '.join(missing)}: keras.applications has the same networks", flush=True)


def module_of(requirement: str) -> str:
    """The module that `efficientnet==1.1.1` is imported as."""
    return requirement.partition("==")[0].replace("-", "_").lower()


def written(output: Path) -> str:
    """When a kernel ended, as text that sorts; empty where it did not say."""
    report = output / REPORT
    return str(read_json(report)["written"]) if report.is_file() else ""


def find_folders(inputs: Path, fits: Callable[[Path], bool]) -> Iterator[Path]:
    """The folders that fit, the nearest to `inputs` first; nothing below one of them is looked at."""
    level = [inputs]
    for _ in range(_DEPTH + 1):
        below = []
        for folder in level:
            if fits(folder):
                yield folder
            else:
                below.append(folder)
        level = [Path(entry.path) for folder in below for entry in sorted_entries(folder) if entry.is_dir()]


def sorted_entries(folder: Path) -> list[os.DirEntry[str]]:
    return sorted(os.scandir(folder), key=lambda entry: entry.name)


def holds(folder: Path, name: str) -> bool:
    """Whether the folder has this path below it, or a zip that stands for it."""
    return (folder / name).exists() or zip_of(folder, name) is not None


def zip_of(folder: Path, name: str) -> Path | None:
    """The zip that a path lies in: Kaggle attaches some competitions' `train.zip` as it is."""
    archive = folder / f"{Path(name).parts[0]}.zip"
    return archive if archive.is_file() else None


def show_data(data: Path, files: Sequence[str], link: Path) -> None:
    """Make `link` show the data as `kit download` unpacks it."""
    archives = {archive for name in files if not (data / name).exists() and (archive := zip_of(data, name))}
    if not archives:
        link.symlink_to(data)
        return
    link.mkdir()
    for entry in data.iterdir():
        if entry not in archives:
            (link / entry.name).symlink_to(entry)
    for archive in sorted(archives):
        print(f"unpacking {archive.name}", flush=True)
        unpack(archive, link / archive.stem, name="kaggle", progress=False, keep=True)
        hoist(link / archive.stem)


def copy_files(source: Path, target: Path) -> None:
    """Copy a folder's files, or one file; their modes are not copied, as what is attached is read only."""
    for file in [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file()):
        copied = target / file.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copied)


def attached(inputs: Path) -> list[str]:
    """What is attached, for a message."""
    return sorted(path.relative_to(inputs).as_posix() for path in inputs.glob("*/*"))[:10] or ["nothing"]
