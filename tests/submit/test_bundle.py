"""Bundles: what is gathered for a kernel, and when it is uploaded."""

import importlib.metadata
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import Workspace, file_sha256, write_json
from pipeline.errors import DataError, KitError
from pipeline.model.backbones import BACKBONES
from pipeline.model.weights import PublishedFile
from pipeline.recipe import Recipe, load_recipe
from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.server import Rehearsal
from pipeline.submit.bundle import gather, needs_bundle, repack_wheel, upload
from pipeline.submit.job import SLUG_LIMIT, Job, kernel_slug
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kaggle_errors import UploadFailed
from pipeline.submit.leaks import refuse_leaks
from tests.submit.test_kernel_run import JOB, Site, contents, write_files

MODEL = {"classes": ["a", "b"], "folds": [0, 3], "stages": [1, 1], "tta_used": False, "fingerprint": "f"}
REF = f"rehearsal-user/{JOB.bundle}"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("demo")


@pytest.fixture
def target(workspace: Workspace) -> Path:
    """Where a bundle is gathered."""
    return workspace.root / "kernels" / "predict" / "bundle" / JOB.bundle


def write_weights(workspace: Workspace, ends_on: Mapping[str, int] | None = None, **weights: str) -> Job:
    """The weights that a predicting job needs: those of its recipe's last stage, here with these texts."""
    texts = {"fold_0": "of fold 0", "fold_3": "of fold 3", **weights}
    for name, text in texts.items():
        run = workspace.run("tiny", "demo") / name.replace("_", "-")
        write_files(run, {"stage-0/best.weights.h5": "of the first stage", "stage-1/best.weights.h5": text})
        sha256 = file_sha256(run / f"stage-{(ends_on or {}).get(name, 1)}" / "best.weights.h5")
        write_json(run / "fold.json", {"fold": 0, "fingerprint": "f", "weights_sha256": sha256})
    return replace(JOB, model=MODEL)


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, False),
        ({"internet": False}, False),
        ({"recipe": {"backbone": "efficientnet-b0", "weights": "imagenet"}}, False),
        ({"recipe": {"backbone": "efficientnet-b0", "weights": "imagenet"}, "internet": False}, True),
        ({"recipe": {"backbone": "tiny", "weights": "mine.h5"}}, True),
        ({"recipe": {"backbone": "tiny", "weights": "imagenet"}}, True),  # nobody publishes any: a file of that name
        ({"packages": ["efficientnet==1.1.1"]}, False),
        ({"packages": ["efficientnet==1.1.1"], "internet": False}, True),
        ({"model": MODEL}, True),
        ({"attached": True}, True),
    ],
)
def test_which_kernels_need_a_bundle(changes: Mapping[str, Any], needed: bool) -> None:
    assert needs_bundle(replace(JOB, **changes)) is needed


def test_a_predicting_kernel_gets_the_weights_of_every_fold(workspace: Workspace, recipe: Recipe, target: Path) -> None:
    job = write_weights(workspace)
    digest = gather(job, recipe, target, workspace=workspace, packed="")
    found = contents(target / "files")
    assert json.loads(found.pop(f"{job.bundle}.json")) == {
        "competition": "tiny",
        "experiment": "demo",
        "sha256": digest,
    }
    assert found == {"fold-0.weights.h5": "of fold 0", "fold-3.weights.h5": "of fold 3"}
    assert (target / "files" / "fold-0.weights.h5").is_symlink(), "weights are large"


def test_the_weights_are_those_of_the_stage_that_a_fold_ends_on(
    workspace: Workspace, recipe: Recipe, target: Path
) -> None:
    job = replace(write_weights(workspace, {"fold_3": 0}), model={**MODEL, "stages": [1, 0]})
    gather(job, recipe, target, workspace=workspace, packed="")
    found = contents(target / "files")
    del found[f"{job.bundle}.json"]
    assert found == {"fold-0.weights.h5": "of fold 0", "fold-3.weights.h5": "of the first stage"}


def test_a_fold_without_weights_is_refused(workspace: Workspace, recipe: Recipe, target: Path) -> None:
    job = write_weights(workspace)
    (workspace.fold("tiny", "demo", 3) / "stage-1" / "best.weights.h5").unlink()
    with pytest.raises(DataError, match=r"runs/tiny/demo/fold-3/stage-1/best\.weights\.h5 do not exist"):
        gather(job, recipe, target, workspace=workspace, packed="")
    assert not list(target.parent.iterdir())


def test_a_fold_that_is_not_finished_is_refused(workspace: Workspace, recipe: Recipe, target: Path) -> None:
    job = write_weights(workspace)
    done = workspace.fold("tiny", "demo", 3) / "fold.json"
    for break_it, said in (
        (lambda: write_json(done, {"fold": 3, "fingerprint": "other"}), "another recipe than the result of demo"),
        (done.unlink, "fold 3 of demo is not trained to its end"),
    ):
        break_it()
        with pytest.raises(DataError, match=said):
            gather(job, recipe, target, workspace=workspace, packed="")
        assert not list(target.parent.iterdir())


def test_weights_of_ones_own_and_an_attached_package(workspace: Workspace, recipe: Recipe, target: Path) -> None:
    write_files(workspace.root, {"mine.h5": "my weights"})
    own = recipe.model_copy(update={"weights": str(workspace.root / "mine.h5")})
    gather(replace(JOB, attached=True), own, target, workspace=workspace, packed="the package")
    found = contents(target / "files")
    del found[f"{JOB.bundle}.json"]
    assert found == {"mine.h5": "my weights", f"{JOB.bundle}.b85": "the package"}


def test_published_weights_go_under_their_own_name(
    workspace: Workspace, recipe: Recipe, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {"somebody's": PublishedFile("theirs_notop.h5", "keras")}
    monkeypatch.setitem(BACKBONES, "tiny", replace(BACKBONES["tiny"], files=published))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    write_files(tmp_path / "keras" / "models", {"theirs_notop.h5": "published"})
    own = recipe.model_copy(update={"weights": "somebody's"})
    gather(JOB, own, target, workspace=workspace, packed="")
    assert contents(target / "files")["theirs_notop.h5"] == "published"


def test_the_hash_is_of_names_and_contents_alone(workspace: Workspace, recipe: Recipe, target: Path) -> None:
    def gathered(**changes: Any) -> str:
        return gather(replace(job, **changes), recipe, target, workspace=workspace, packed="")

    job = write_weights(workspace)
    digest = gathered()
    assert gathered(build="another", session_seconds=1.0) == digest
    write_weights(workspace, fold_1="of fold 3")
    assert gathered(model={**MODEL, "folds": [0, 1]}) != digest, "another name"
    write_weights(workspace, fold_3="of fold 4")
    assert gathered() != digest


def test_an_installed_package_becomes_a_wheel(workspace: Workspace, tmp_path: Path) -> None:
    """What is in the wheel is the package: it is imported from there, in a Python that has nothing else."""
    for name, module, path in (
        ("efficientnet", "efficientnet.tfkeras", "efficientnet/tfkeras.py"),
        ("keras-applications", "keras_applications", "keras_applications/__init__.py"),
    ):
        wheel = repack_wheel(name, tmp_path, workspace=workspace)
        version = importlib.metadata.version(name)
        assert wheel.name.lower() == f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        folder = tmp_path / "unpacked"
        zipfile.ZipFile(wheel).extractall(folder)
        code = "import sys, importlib.metadata, importlib.util; sys.path.insert(0, sys.argv[1]); "
        code += f"print(importlib.util.find_spec({module!r}).origin, importlib.metadata.version({name!r}))"
        command = [sys.executable, "-I", "-S", "-c", code, str(folder)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.stdout.split() == [str(folder / path), version], ran.stderr
        dates = {member.date_time[0] for member in zipfile.ZipFile(wheel).infolist()}
        assert dates == {1980}, "with the time of the build in it, no two bundles would be the same"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a package of these files as pip would."""

    def installed(files: Mapping[str, str], *, listed: bool = True) -> None:
        site, info = tmp_path / "lib" / "python" / "site", "plain_one-1.0.dist-info"
        facts = {f"{info}/METADATA": "Metadata-Version: 2.1\nName: plain-one\nVersion: 1.0\n"}
        facts |= {f"{info}/direct_url.json": json.dumps({"url": f"file://{tmp_path}"}), f"{info}/INSTALLER": "pip"}
        write_files(site, {**facts, **files})
        record = "".join(f"{name},,\n" for name in [*facts, *files, f"{info}/RECORD"])
        if listed:
            write_files(site, {f"{info}/RECORD": record})
        monkeypatch.syspath_prepend(str(site))

    return installed


def test_a_wheel_says_nothing_of_where_it_was_installed(
    workspace: Workspace, tmp_path: Path, install: Callable[..., None]
) -> None:
    install({"plain_one/__init__.py": "", "plain_one/__pycache__/a.pyc": "", "../../bin/plain": f"#!{tmp_path}/python"})
    wheel = zipfile.ZipFile(repack_wheel("plain-one", tmp_path, workspace=workspace))
    assert set(wheel.namelist()) == {"plain_one-1.0.dist-info/METADATA", "plain_one/__init__.py"}


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("plain_one/settings.py", "CACHE = '{root}/cache'", "settings.py would hold a path of this machine"),
        ("plain_one/notes.txt", "see {home}/notes", "notes.txt would hold a path of this machine"),
        ("plain_one/own.py", "KEY = 'kgat_0123456789abcdef'", "own.py would hold the value of KAGGLE_API_TOKEN"),
        ("plain_one/fast.so", "", "compiled parts"),
    ],
)
def test_a_package_that_must_not_leave_is_refused(
    workspace: Workspace,
    tmp_path: Path,
    install: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    content: str,
    said: str,
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "kgat_0123456789abcdef")
    install({"plain_one/__init__.py": "", file: content.format(root=workspace.root, home=Path.home())})
    with pytest.raises(KitError, match=said) as refused:
        repack_wheel("plain-one", tmp_path, workspace=workspace)
    assert "kgat_" not in str(refused.value)
    assert not list(tmp_path.glob("*.whl"))


def test_a_package_that_cannot_be_packed_is_refused(
    workspace: Workspace, tmp_path: Path, install: Callable[..., None]
) -> None:
    with pytest.raises(KitError, match="no-such-package is not installed"):
        repack_wheel("no-such-package", tmp_path, workspace=workspace)
    install({"plain_one/__init__.py": ""}, listed=False)
    with pytest.raises(KitError, match="plain-one does not list its files"):
        repack_wheel("plain-one", tmp_path, workspace=workspace)


@pytest.mark.parametrize("place", ["KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"])
def test_a_secret_is_found_wherever_credentials_lie(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    secret = "0123456789abcdef-of-somebody"
    folder = tmp_path if place == "KAGGLE_CONFIG_DIR" else tmp_path / "kaggle"
    write_files(folder, {"access_token": secret + "\n"})
    refuse_leaks({"a.py": secret}, workspace)
    monkeypatch.setenv(place, str(tmp_path))
    with pytest.raises(KitError, match=r"b\.py would hold a secret of .*access_token") as refused:
        refuse_leaks({"a.py": "a short word, of-somebody", "b.py": f"# {secret}"}, workspace)
    assert secret not in str(refused.value)


class Uploads:
    """A gathered bundle, and a local Kaggle that it is sent to."""

    def __init__(self, server: Rehearsal, workspace: Workspace, recipe: Recipe, target: Path) -> None:
        self.server, self.workspace, self.recipe, self.target = server, workspace, recipe, target
        self.kaggle = Kaggle.connect(timeout=10, attempts=1)
        self.pauses: list[float] = []
        self.gather()

    def gather(self, **weights: str) -> None:
        job = write_weights(self.workspace, **weights)
        digest = gather(job, self.recipe, self.target, workspace=self.workspace, packed="")
        self.job = replace(job, bundle_sha256=digest)

    def __call__(self, *, seconds: float = 60.0) -> str:
        """Upload it, and say by which calls that was done, besides questions."""
        self.server.requests.clear()
        self.pauses.clear()
        assert upload(self.kaggle, self.job, self.target, seconds=seconds, sleep=self.pauses.append) == REF
        return " ".join(name for _, name in self.server.requests if name.startswith("Create"))

    def answer(self, status: str) -> None:
        """What the next question after the data set is answered, instead of the truth."""
        methods = self.server.protocol._methods
        truth = methods["GetDatasetStatus"]

        def once(*_: Any) -> dict[str, str]:
            methods["GetDatasetStatus"] = truth
            return {"status": status}

        methods["GetDatasetStatus"] = once


@pytest.fixture
def uploads(rehearsal: Rehearsal, workspace: Workspace, recipe: Recipe, target: Path) -> Uploads:
    return Uploads(rehearsal, workspace, recipe, target)


def test_a_bundle_is_uploaded_once_and_again_when_it_changed(uploads: Uploads) -> None:
    assert uploads() == "CreateDataset"
    assert uploads.pauses == [1.0], "it was not READY at once"
    assert contents(uploads.server.protocol.store.dataset(JOB.bundle, 1)) == contents(uploads.target / "files")
    assert uploads() == ""
    uploads.gather()  # as a new build does
    assert uploads() == ""
    uploads.gather(fold_0="better")
    assert uploads() == "CreateDatasetVersion"
    there = contents(uploads.server.protocol.store.dataset(JOB.bundle, 2))
    assert there["fold-0.weights.h5"] == "better"
    assert json.loads(there[f"{JOB.bundle}.json"])["sha256"] == uploads.job.bundle_sha256
    assert uploads() == ""


def test_what_kaggle_could_not_read_or_has_not_is_uploaded_again(uploads: Uploads) -> None:
    uploads()
    uploads.answer("FAILED")
    assert uploads() == "CreateDatasetVersion"
    with uploads.server.protocol.store.change() as state:
        state.datasets.clear()
    assert uploads() == "CreateDataset"
    note = uploads.target / "uploaded.json"
    note.write_text(note.read_text().replace('"rehearsal"', '"kaggle.com"'))
    assert uploads() == "CreateDatasetVersion", "it was there, and not here"


def test_a_bundle_is_waited_for(uploads: Uploads) -> None:
    uploads.server.faults += [Fault("GetDatasetStatus", "404")]  # there is none yet
    uploads.server.faults += [Fault("GetDatasetStatus", "unknown", 7)]
    with pytest.raises(KitError, match=f"{REF} is UNHEARD_OF") as late:
        uploads(seconds=-1)
    assert "READY within" in late.value.expected and not uploads.pauses
    uploads.server.faults.clear()
    assert uploads() == "CreateDatasetVersion", "what never was READY is sent again"
    uploads.server.faults += [Fault("GetDatasetStatus", "unknown", 7)]
    assert uploads() == ""
    assert uploads.pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0]


def test_a_bundle_that_kaggle_cannot_read_is_an_error_at_once(uploads: Uploads) -> None:
    uploads()
    uploads.gather(fold_0="broken")
    uploads.server.protocol._methods["GetDatasetStatus"] = lambda *_: {"status": "FAILED"}
    with pytest.raises(KitError, match=f"{REF} is FAILED"):
        uploads()
    assert not uploads.pauses
    assert not (uploads.target / "uploaded.json").exists()


def test_an_upload_that_breaks_off_is_not_taken_for_done(uploads: Uploads) -> None:
    uploads()
    uploads.gather(fold_0="better")
    uploads.server.faults += [Fault("Upload", "drop")]
    with pytest.raises(UploadFailed):
        uploads()
    uploads.gather()  # what is on Kaggle still, and was noted as uploaded before
    assert uploads() == "CreateDatasetVersion"


def test_a_bundle_is_private_and_its_name_fits(
    rehearsal: Rehearsal, workspace: Workspace, recipe: Recipe, target: Path
) -> None:
    asked: list[Mapping[str, Any]] = []
    create = rehearsal.protocol._methods["CreateDataset"]
    rehearsal.protocol._methods["CreateDataset"] = lambda request, base: asked.append(request) or create(request, base)
    long = kernel_slug("kit", "train", "a-competition-of-a-long-name", "progressive-b7-kaggle") + "-files"
    assert len(long) > SLUG_LIMIT - len("-files")
    job = replace(write_weights(workspace), bundle=long)
    job = replace(job, bundle_sha256=gather(job, recipe, target, workspace=workspace, packed=""))
    ref = upload(Kaggle.connect(timeout=10), job, target, sleep=lambda _: None)
    assert ref == f"rehearsal-user/{long}"
    assert [(one["isPrivate"], one["slug"], one["title"]) for one in asked] == [(True, long, long)]


def test_a_kernel_without_its_bundle_is_not_pushed(rehearse: Callable[..., Rehearsal], workspace: Workspace) -> None:
    site, job = Site(rehearse, workspace), replace(JOB, attached=True)
    for sources in ([], [f"somebody/{job.bundle}"]):
        with pytest.raises(KitError, match=f"{REF}, which is not attached") as refused:
            site.push(job, dataset_sources=sources)
        assert "kit kernel bundle train" in refused.value.next_step
    assert ("POST", "SaveKernel") not in site.server.requests
    write_files(site.root / "files", {"a.txt": "a"})
    site.kaggle.upload_dataset(site.root / "files", ref=REF, title=job.bundle, notes="", progress=False)
    assert site.push(job, dataset_sources=[REF]).version == 1
