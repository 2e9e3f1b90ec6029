"""Built kernels: what is in the pushed folder, what is refused, and what the code file does when it is run."""

import base64
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.artifacts import Workspace
from pipeline.competition import Competition
from pipeline.data.competition_data import load_data
from pipeline.data.pseudo import write_pseudo
from pipeline.errors import KitError
from pipeline.recipe import Recipe, load_recipe
from pipeline.submit import kernel as kernel_module
from pipeline.submit.job import SLUG_LIMIT, kernel_slug, train_job
from pipeline.submit.kaggle_kernels import SOURCE_LIMIT
from pipeline.submit.kernel import Built, build_kernel, find_built, pack, read_template
from tests.conftest import make_picture, write_competition

TEMPLATES = Path(__file__).resolve().parents[2] / "kernels"


@pytest.fixture
def workspace(tiny_competition: Competition, tmp_path: Path) -> Workspace:
    """The tiny competition and the kit's templates."""
    for name in ("train", "predict"):
        folder = tmp_path / "kernels" / name
        folder.mkdir(parents=True)
        for file in (TEMPLATES / name).glob("*.*"):
            (folder / file.name).write_bytes(file.read_bytes())
    return Workspace(tmp_path)


def built(workspace: Workspace, competition: Competition, *, recipe: Recipe | None = None, **changes: Any) -> Built:
    recipe = recipe or load_recipe("demo")
    job = train_job(recipe, competition, experiment="demo-kaggle", folds=[0], bundle="kit-files")
    slug = kernel_slug("kit", "train", competition.slug, "demo-kaggle")
    metadata = {"id": f"someone/{slug}", "title": slug, "competition_sources": [competition.slug], **changes}
    template = read_template("train", workspace)
    return build_kernel(template, job, recipe, competition, workspace=workspace, metadata=metadata)


def unpacked(made: Built) -> zipfile.ZipFile:
    text = re.search(r'PAYLOAD = """\n(.*?)"""', made.code_file.read_text(), flags=re.S)
    assert text
    return zipfile.ZipFile(io.BytesIO(base64.b85decode(text[1].replace("\n", ""))))


def test_the_code_file_carries_package_and_competition(workspace: Workspace, tiny_competition: Competition) -> None:
    made = built(workspace, tiny_competition)
    names = set(unpacked(made).namelist())
    assert {"pipeline/training/fold.py", "pipeline/recipes/demo.yaml", "competitions/tiny/competition.yaml"} <= names
    assert unpacked(made).read("competitions/tiny/folds.csv") == tiny_competition.folds_file.read_bytes()
    assert not [name for name in names if "__pycache__" in name or name.startswith("pipeline/cli")]
    assert made.code_file.stat().st_size < SOURCE_LIMIT
    assert made.metadata["enable_internet"] is True
    assert made.metadata["machine_shape"] == "NvidiaTeslaT4"


def test_a_metric_in_a_file_travels_along(workspace: Workspace, tiny_competition: Competition) -> None:
    own = tiny_competition.model_copy(update={"metric": "metric.py", "greater_is_better": True})
    own.folder.joinpath("metric.py").write_text("def score(a, b, c): return 1.0")
    assert unpacked(built(workspace, own)).read("competitions/tiny/metric.py") == b"def score(a, b, c): return 1.0"


def test_a_built_folder_says_nothing_of_this_machine(
    workspace: Workspace, tiny_competition: Competition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "kgat_0123456789abcdef")
    made = built(workspace, tiny_competition)
    texts = [file.read_text() for file in made.folder.iterdir()]
    texts += [unpacked(made).read(name).decode() for name in unpacked(made).namelist()]
    kit = Path(__file__).resolve().parents[2]
    for private in (
        "kgat_0123456789abcdef",
        str(workspace.root),
        f"{kit}/",
        f"{Path.home()}/",
        os.uname().nodename + "/",
    ):
        assert not [text for text in texts if private in text], private


def test_the_same_files_give_the_same_payload(tiny_competition: Competition) -> None:
    assert pack(tiny_competition) == pack(tiny_competition)


def test_pseudo_labels_travel_and_declared_extra_rows_are_asked_for(
    workspace: Workspace, tiny_competition: Competition
) -> None:
    for name in ("used", "unused"):
        rows = pd.DataFrame({"id": ["t0.jpg"], "fold": [0], "label": ["red"], "confidence": [0.9]})
        write_pseudo(tiny_competition, name, rows, {"folds_sha256": load_data(tiny_competition).folds.sha256})
    make_picture(tiny_competition.data / "pool" / "more" / "red" / "0.png", seed=99)
    settings = tiny_competition.model_dump(mode="json", exclude_none=True, exclude={"slug", "extra"})
    declared = {"more": {"pictures": "pool/more"}, "other": {"pictures": "none"}}
    competition = write_competition(workspace.root, "tiny", **settings, extra=declared)
    made = built(workspace, competition, recipe=load_recipe("demo", overrides=["extra=[more,used]"]))
    names = {name for name in unpacked(made).namelist() if "pseudo/" in name}
    assert names == {f"competitions/tiny/pseudo/used.{suffix}" for suffix in ("csv", "json")}
    assert unpacked(made).read("competitions/tiny/pseudo/used.csv") == competition.pseudo_file("used").read_bytes()
    assert made.job.recipe["extra"] == ["more", "used"]
    assert "pool/more" in made.job.files
    assert "none" not in made.job.files


def test_two_builds_are_told_apart(workspace: Workspace, tiny_competition: Competition) -> None:
    assert built(workspace, tiny_competition).job.build != built(workspace, tiny_competition).job.build


def test_the_built_job_is_read_back(workspace: Workspace, tiny_competition: Competition) -> None:
    made = built(workspace, tiny_competition)
    assert find_built("train", None, workspace=workspace).job.build == made.job.build
    with pytest.raises(KitError, match="no built kernel 'other'"):
        find_built("train", "other", workspace=workspace)
    with pytest.raises(KitError, match="predict has not been built"):
        find_built("predict", None, workspace=workspace)


def test_what_was_written_beside_the_description_travels_along(tiny_competition: Competition) -> None:
    before = pack(tiny_competition)
    for file in (tiny_competition.groups_file, tiny_competition.quarantine_file):
        file.write_text("id,reason\n", "utf-8")
        after = pack(tiny_competition)
        assert after != before
        before = after


def test_the_code_file_unpacks_itself(workspace: Workspace, tiny_competition: Competition, tmp_path: Path) -> None:
    """Without competition data it must come as far as missing that, with its own copy of the package."""
    made = built(workspace, tiny_competition)
    root = tmp_path / "kaggle"
    for name in ("input", "working"):
        (root / name).mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-I", made.code_file],
        cwd=root / "working",
        env={"KAGGLE_ROOT": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "holds sample_submission.csv, train.csv, train, test" in done.stderr
    assert "Traceback" not in done.stderr
    report = json.loads((root / "working" / "kernel.json").read_text())
    assert (report["state"], report["build"]) == ("failed", made.job.build)


def test_a_package_too_large_is_attached(
    workspace: Workspace, tiny_competition: Competition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_module, "SOURCE_LIMIT", 20_000)
    made = built(workspace, tiny_competition)
    assert made.code_file.stat().st_size < 20_000
    assert made.job.attached
    assert find_built("train", None, workspace=workspace).job.attached
    attached = workspace.root / "kernels" / "train" / "bundle" / "kit-files" / "files" / "kit-files.b85"
    assert attached.read_text() == pack(tiny_competition)
    root = workspace.root / "kaggle"
    (root / "input").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, made.code_file], env={"KAGGLE_ROOT": str(root)}, capture_output=True, text=True
    )
    assert (done.returncode, "kit-files, which holds the package, is not attached" in done.stderr) == (1, True)


def test_a_template_too_large_is_refused(
    workspace: Workspace, tiny_competition: Competition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_module, "SOURCE_LIMIT", 2_000)
    with pytest.raises(KitError, match="a code file of"):
        built(workspace, tiny_competition)
    assert not (workspace.root / "kernels" / "train" / "build").exists()


@pytest.mark.parametrize(
    ("secret", "name"),
    [("kgat_0123456789abcdef", "KAGGLE_API_TOKEN"), ("0123456789abcdef0123456789abcdef", "KAGGLE_KEY")],
)
def test_a_secret_in_the_template_is_refused_and_not_repeated(
    workspace: Workspace, tiny_competition: Competition, monkeypatch: pytest.MonkeyPatch, secret: str, name: str
) -> None:
    monkeypatch.setenv(name, secret)
    template = workspace.root / "kernels" / "train" / "train.py"
    template.write_text(template.read_text() + f"\n# {secret}\n")
    with pytest.raises(KitError, match=f"the value of {name}") as refused:
        built(workspace, tiny_competition)
    assert secret not in str(refused.value)


def test_a_secret_of_a_credentials_file_is_refused(
    workspace: Workspace, tiny_competition: Competition, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".kaggle").mkdir(parents=True)
    key = "fedcba9876543210fedcba9876543210"
    (tmp_path / "home" / ".kaggle" / "kaggle.json").write_text(json.dumps({"username": "someone", "key": key}))
    file = tiny_competition.folder / "competition.yaml"
    file.write_text(file.read_text() + f"# {key}\n")
    with pytest.raises(KitError, match=r"kaggle\.json") as refused:
        built(workspace, tiny_competition)
    assert key not in str(refused.value)


def test_a_path_of_this_machine_is_refused(workspace: Workspace, tiny_competition: Competition) -> None:
    template = workspace.root / "kernels" / "train" / "train.py"
    template.write_text(template.read_text() + f"\nDATA = {str(workspace.root / 'data')!r}\n")
    with pytest.raises(KitError, match="a path of this machine"):
        built(workspace, tiny_competition)


def test_metadata_that_kaggle_would_refuse_is_not_built(workspace: Workspace, tiny_competition: Competition) -> None:
    with pytest.raises(KitError, match="whose slug is 'my-kernel', but the id"):
        built(workspace, tiny_competition, title="My Kernel")
    template = workspace.root / "kernels" / "train" / "kernel-metadata.json"
    template.write_text(template.read_text().replace("enable_internet", "internet"))
    with pytest.raises(KitError, match="does not say enable_internet"):
        built(workspace, tiny_competition)
    assert not list((workspace.root / "kernels" / "train" / "build").glob("*"))


def test_slugs_stay_short_and_apart() -> None:
    long = [kernel_slug("kit", "train", "a" * 40, f"experiment-{number}") for number in range(3)]
    assert len(set(long)) == 3
    assert all(len(f"{slug}-files") <= SLUG_LIMIT for slug in long)
    assert all(len(f"{slug}-part-99") <= SLUG_LIMIT for slug in long)
    assert kernel_slug("kit", "train", "cars", "b7_wide.2") == "kit-train-cars-b7-wide-2"


def test_a_folder_that_is_no_template_is_refused(workspace: Workspace) -> None:
    template = workspace.root / "kernels" / "train" / "train.py"
    template.write_text("print('mine')\n")
    with pytest.raises(KitError, match="is not a template"):
        read_template("train", workspace)
    (template.parent / "kernel-metadata.json").write_text("{")
    with pytest.raises(KitError, match="cannot be read"):
        read_template("train", workspace)
    with pytest.raises(KitError, match=r"no kernel 'trian'.*\n.*predict, train"):
        read_template("trian", workspace)


def test_a_fold_that_is_not_there_is_refused(tiny_competition: Competition) -> None:
    with pytest.raises(KitError, match="tiny has no fold 7"):
        train_job(load_recipe("demo"), tiny_competition, experiment="demo", folds=[7], bundle="kit-files")
