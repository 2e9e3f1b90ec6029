"""Exported models give what the fold models give, say what they are, and are refused where they would not."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from scipy.special import softmax

from pipeline.artifacts import Workspace, read_json, write_json
from pipeline.competition import Target
from pipeline.data.pictures import FilePictures
from pipeline.errors import DataError, KitError, OutOfMemory
from pipeline.model.portable import portable_classifier
from pipeline.predictions.calibration import OofTemperature, oof_temperature
from pipeline.predictions.manifests import MANIFEST
from pipeline.predictions.store import read_experiment, read_predictions, write_predictions
from pipeline.recipe import Recipe
from pipeline.training import export
from pipeline.training.averaged import average_network
from pipeline.training.export import OOF_TOLERANCE, Export, ModelFormat, export_average, export_folds, write_and_run
from pipeline.training.network import load_network
from pipeline.training.onnx_file import write_onnx
from pipeline.training.predict import predict_pictures, read_fold_models
from tests.conftest import make_pictures, write_competition
from tests.training.conftest import EXPERIMENT, RECIPE, Run, own, recipe_of, stage

CLASSES = ["blue", "green", "red"]


def key(run: Run) -> dict[str, Any]:
    return {"slug": "tiny", "experiment": EXPERIMENT, "workspace": run.workspace}


@pytest.fixture(scope="module")
def exported(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export_folds(**key(finished), folder=tmp_path_factory.mktemp("exported") / "two words é")


def decoded(run: Run, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """The test pictures."""
    paths = tuple(run.data.test["path"])
    return FilePictures(paths, size).take(np.arange(len(paths)))


def onnx_probabilities(file: Path, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"pictures": batch})[0])


def test_the_mean_of_the_files_gives_the_stored_test_predictions(exported: Export, finished: Run) -> None:
    stored = read_experiment(finished.workspace, "tiny", EXPERIMENT)
    wanted = stored.test.set_index("id").loc[finished.data.test["id"], CLASSES]
    plain = decoded(finished)
    views = [plain, plain[:, :, ::-1]] if stored.manifest["tta_used"] else [plain]
    assert np.ptp(wanted.to_numpy(), axis=0).max() > 0.1
    for suffix in ("onnx", "keras"):
        found = []
        for fold in (0, 1):
            file = exported.folder / f"fold-{fold}.{suffix}"
            for batch in views:
                if suffix == "onnx":
                    found.append(onnx_probabilities(file, batch))
                else:
                    found.append(keras.saving.load_model(file, safe_mode=True).predict(batch, verbose=0))
        np.testing.assert_allclose(np.mean(found, axis=0), wanted, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (50, 41)])
def test_onnx_gives_what_keras_gives_for_any_batch_and_size(
    exported: Export, finished: Run, size: tuple[int, int]
) -> None:
    network = load_network(RECIPE, classes=3, weights=finished.task(1).weights)
    batch = decoded(finished, size)
    wanted = softmax(keras.ops.convert_to_numpy(network(batch)), axis=1)
    for count in (1, 5):
        found = onnx_probabilities(exported.folder / "fold-1.onnx", batch[:count])
        np.testing.assert_allclose(found, wanted[:count], atol=1e-5)


def test_an_onnx_file_says_what_it_is(exported: Export) -> None:
    model = onnx.load(exported.folder / "fold-0.onnx")
    said = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert said["classes"] == CLASSES
    assert (said["competition"], said["experiment"], said["size"]) == ("tiny", EXPERIMENT, [32, 32])
    session = onnxruntime.InferenceSession(exported.folder / "fold-0.onnx")
    [given], [made] = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("pictures", "tensor(uint8)", ["batch", "height", "width", 3])
    assert (made.name, made.type, made.shape) == ("probabilities", "tensor(float)", ["batch", 3])


def test_the_description_and_the_card_say_what_was_found(exported: Export, finished: Run) -> None:
    described = read_json(exported.folder / "model.json")
    names = ["fold-0.keras", "fold-0.onnx", "fold-1.keras", "fold-1.onnx"]
    assert [file["name"] for file in described["files"]] == names
    assert sorted(path.name for path in exported.folder.iterdir()) == sorted(
        [*names, "model.json", "predict.py", "README.md"]
    )
    assert (described["classes"], described["average"]) == (CLASSES, None)
    assert [file["size"] for file in described["files"]] == [[32, 32]] * 4
    for file in exported.files:
        assert file.difference < 1e-5
        assert file.oof_difference is not None and file.oof_difference < 1e-5
        assert file.size_bytes == (exported.folder / file.name).stat().st_size
    card, manifest = (exported.folder / "README.md").read_text("utf-8"), read_json(finished.oof / MANIFEST)
    assert "A file a fold: each model" in card and "Average the probabilities of all of them" in card
    assert card.startswith("---\nlibrary_name: keras\n")
    for part in (
        f"| plain | {manifest['score']:.4f} | {manifest['score_se']:.4f} |",
        f"| with TTA | {manifest['tta_score']:.4f} |",
        "0. blue\n1. green\n2. red",
        "32×32 (height × width)",
        f"keras {keras.__version__}",
        manifest["fingerprint"],
        "They are not calibrated: ",
        "\n- keras\n- onnx\nmetrics:",
    ):
        assert part in card
    assert str(finished.workspace.root) not in card


def odd_pictures(folder: Path) -> list[Path]:
    """A telephone's JPEG, one that is half transparent, one of 16 bits, and one that is smaller than the network's."""
    random = np.random.default_rng(1)
    pixels = random.integers(0, 120, (90, 61, 4), dtype=np.uint8)
    pixels[:30] = (250, 20, 20, 90)  # the top: no two sides are alike
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [folder / name for name in ("phone.jpg", "clear.png", "deep.png", "small.png")]
    Image.fromarray(pixels[:, :, :3]).save(paths[0], exif=exif)
    Image.fromarray(pixels).save(paths[1])
    Image.fromarray(random.integers(0, 65536, (90, 61), dtype=np.uint16)).save(paths[2])
    Image.fromarray(pixels[20:35, 10:31, :3]).save(paths[3])
    return paths


def test_rows_that_no_fold_holds_out_are_not_asked_for(tmp_path: Path) -> None:
    """With a predefined split the temperature is fitted on the held-out rows alone."""
    competition = write_competition(tmp_path, "split", train={"pictures": "train", "held_out_pictures": "valid"})
    make_pictures(competition.data / "train", {"blue": 6, "red": 6})
    make_pictures(competition.data / "valid", {"blue": 3, "red": 3})
    run = Run(competition, Workspace(tmp_path), recipe_of(stage("only")))
    run.train()
    done = export_folds(slug="split", experiment=EXPERIMENT, workspace=run.workspace, formats=[ModelFormat.keras])
    assert [file.name for file in done.files] == ["fold-0.keras"]
    assert len(read_experiment(run.workspace, "split", EXPERIMENT).oof) == 6


@pytest.mark.parametrize(("format", "count"), [(ModelFormat.onnx, 4), (ModelFormat.keras, 1)])
def test_the_snippet_of_the_card_runs_and_agrees_with_kit_predict(
    exported: Export, finished: Run, format: ModelFormat, count: int, tmp_path: Path
) -> None:
    folder = exported.folder
    if format is ModelFormat.keras:  # its card has another snippet
        folder = export_folds(**key(finished), folder=tmp_path / "keras", formats=[format]).folder
        assert not list(folder.glob("*.onnx"))
    [snippet] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), flags=re.S)
    assert (folder / "predict.py").read_text("utf-8") == snippet
    models = read_fold_models(finished.workspace, "tiny", EXPERIMENT)
    without_views = replace(models.stored, manifest={**models.stored.manifest, "tta_used": False})
    for picture in odd_pictures(tmp_path)[:count]:
        done = subprocess.run(
            [sys.executable, "predict.py", str(picture)], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        by_kit = predict_pictures([picture], models=replace(models, stored=without_views)).iloc[0][CLASSES]
        found = {name: float(value) for value, name in map(str.split, done.stdout.splitlines())}
        assert found == pytest.approx(by_kit.astype(float).to_dict(), abs=1e-4), picture.name


def test_the_average_has_the_mean_of_the_weights(finished: Run) -> None:
    files = [finished.task(fold).weights for fold in (0, 1)]
    first, second = (load_network(RECIPE, classes=3, weights=file).get_weights() for file in files)
    averaged = average_network(RECIPE, files, classes=3).get_weights()
    assert len(averaged) == len(first) > 10
    for left, right, mean in zip(first, second, averaged, strict=True):
        np.testing.assert_allclose(mean, (left.astype(np.float64) + right) / 2, rtol=1e-6, atol=1e-9)


def rewrite(run: Run, fold: int, change: Any) -> None:
    """Give a fold model the weights of fold 0, changed."""
    network = load_network(RECIPE, classes=3, weights=run.task(0).weights)
    network.set_weights([change(array) for array in network.get_weights()])
    network.save_weights(run.task(fold).weights)
    own(run.task(fold))


def test_an_average_of_equal_models_is_that_model(copied: Run, tmp_path: Path) -> None:
    rewrite(copied, 1, lambda array: array)
    done = export_average(**key(copied))
    assert done.folder == copied.workspace.root / "runs" / "tiny" / EXPERIMENT / "export-average"
    assert done.average is not None
    network = load_network(RECIPE, classes=3, weights=copied.task(0).weights)
    wanted = softmax(keras.ops.convert_to_numpy(network(decoded(copied))), axis=1)
    np.testing.assert_allclose(onnx_probabilities(done.folder / "average.onnx", decoded(copied)), wanted, atol=1e-5)
    card = (done.folder / "README.md").read_text("utf-8")
    assert "The score of this averaged model is not known" in card
    assert f"{done.average.bound:.4f} ± {done.average.bound_se:.4f}, which is too good" in card
    assert [file.oof_difference for file in done.files] == [None, None]
    assert read_json(done.folder / "model.json")["temperature"] is None
    assert "for a temperature there is no picture that is new to this model" in card


def test_an_average_that_destroys_the_network_is_refused(copied: Run) -> None:
    rewrite(copied, 1, lambda array: -array)  # the mean is 0: every picture gets the same class
    with pytest.raises(KitError, match=r"accuracy 0\.3333 on rows that its members were trained on"):
        export_average(**key(copied))
    assert not list(copied.workspace.run("tiny", EXPERIMENT).glob("*export*"))


def test_what_a_file_does_not_reproduce_is_not_kept(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(network: Any, target: Target) -> Any:
        portable = portable_classifier(network, target)
        portable.set_weights([array * 1.01 for array in portable.get_weights()])
        return portable

    monkeypatch.setattr(export, "portable_classifier", broken)
    with pytest.raises(KitError, match=r"fold-0\.keras gives other probabilities .* differ by"):
        export_folds(**key(finished), folder=tmp_path / "broken")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_were_not_scored_are_not_exported(copied: Run, tmp_path: Path) -> None:
    """Of a network like it, and nearly as good: no file could be told by what is in it."""
    rewrite(copied, 0, lambda array: array * 1.1)
    with pytest.raises(KitError, match=r"the weights of fold-0 do not give the stored OOF predictions") as refused:
        export_folds(**key(copied), folder=tmp_path / "other", formats=[ModelFormat.keras])
    assert f"remove {copied.task(0).folder}, then give" in refused.value.next_step
    assert not (tmp_path / "other").exists()


def test_mixed_precision_may_be_further_from_what_is_stored() -> None:
    assert {*OOF_TOLERANCE, "auto"} == set(get_args(Recipe.model_fields["precision"].annotation))
    assert min(OOF_TOLERANCE.values()) == OOF_TOLERANCE["float32"]


def test_a_converters_warnings_are_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The squeezing and exciting of MobileNetV3, whose added number tf2onnx does not know how to shorten."""
    layers, pictures = keras.layers, keras.Input((None, None, 3), dtype="uint8", name="pictures")
    features = layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(pictures))
    squeezed = layers.Conv2D(4, 1)(layers.GlobalAveragePooling2D(keepdims=True)(features))
    excited = layers.Multiply()([features, layers.ReLU(6.0)(squeezed + 3.0)])
    found = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(excited))
    network, file = keras.Model(pictures, found), tmp_path / "squeezed.onnx"
    write_onnx(network, file, {"classes": CLASSES})
    assert caplog.records == []
    batch = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    np.testing.assert_allclose(onnx_probabilities(file, batch), network(batch), atol=1e-6)


def test_one_fold_in_one_format(copied: Run, tmp_path: Path) -> None:
    shutil.rmtree(copied.task(0).folder)  # which it does not take
    done = export_folds(**key(copied), folder=tmp_path / "one", folds=[1, 1], formats=[ModelFormat.keras])
    assert [file.name for file in done.files] == ["fold-1.keras"]
    card, manifest = (done.folder / "README.md").read_text("utf-8"), read_json(copied.oof / MANIFEST)
    assert "onnx" not in card
    assert "This is the model of fold 1, trained without the pictures of that fold." in card
    assert "Average the probabilities" not in card and "fold 0" not in card
    assert f"| accuracy | fold 1 |\n|---|---|\n| plain | {manifest['fold_scores']['1']:.4f} |\n" in card
    assert f"| with TTA | {manifest['tta_fold_scores']['1']:.4f} |\n" in card
    assert f"The 2 fold models of the experiment together have an OOF accuracy of {manifest['score']:.4f} ±" in card
    with pytest.raises(DataError, match="has no fold 2"):
        export_folds(**key(copied), folder=tmp_path / "none", folds=[2])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("helps", [True, False])
def test_the_temperature_is_of_the_plain_predictions_of_all_folds(
    copied: Run, tmp_path: Path, helps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OofTemperature, "helps", helps)
    oof = read_predictions(copied.oof / "oof.parquet")
    oof.loc[oof["fold"] == 0, CLASSES] = np.float32([0.2, 0.3, 0.5])  # of all classes: some are wrong
    write_predictions(copied.oof / "oof.parquet", oof)
    labels = copied.data.train.set_index("id").loc[oof["id"], "label"].map(CLASSES.index).to_numpy()
    fitted = oof_temperature(oof[CLASSES].to_numpy(), labels, oof["fold"].to_numpy())
    assert fitted is not None
    done = export_folds(**key(copied), folder=tmp_path / "one", folds=[1], formats=[ModelFormat.keras])
    card = (done.folder / "README.md").read_text("utf-8")
    if helps:
        assert read_json(done.folder / "model.json")["temperature"] == pytest.approx(fitted.value)
        assert f"the temperature that fits the OOF predictions, {fitted.value:.3f}, is not in the files" in card
        assert f"goes from {fitted.error_before:.4f} to {fitted.error_after:.4f}" in card
    else:
        assert read_json(done.folder / "model.json")["temperature"] is None
        assert "does not lower their ECE" in card


def test_what_would_not_fit_into_memory_is_refused_before_anything_is_written(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.onnx_file.available_memory", lambda: 1_000_000)
    with monkeypatch.context() as patched:
        patched.setattr(export, "_export", lambda *_: pytest.fail("a file is written"))
        with pytest.raises(OutOfMemory, match=r"takes about 0\.0 GB") as caught:
            export_folds(**key(finished), folder=tmp_path / "both", folds=[0])
    assert "--format keras" in caught.value.next_step
    assert not list(tmp_path.iterdir())
    export_folds(**key(finished), folder=tmp_path / "keras", folds=[0], formats=[ModelFormat.keras])


def test_an_earlier_export_is_replaced_and_anything_else_is_left_alone(finished: Run, tmp_path: Path) -> None:
    real, folder = tmp_path / "disk", tmp_path / "models"
    real.mkdir()
    folder.symlink_to(real)
    export_folds(**key(finished), folder=folder, folds=[0], formats=[ModelFormat.keras])
    export_folds(**key(finished), folder=folder, folds=[1], formats=[ModelFormat.keras])
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "fold-1.keras", "model.json", "predict.py"]
    assert folder.is_symlink() and sorted(path.name for path in tmp_path.iterdir()) == ["disk", "models"]
    (folder / "notes.txt").write_text("mine", "utf-8")
    with pytest.raises(DataError, match="cannot be written: Not a directory"):
        export_folds(**key(finished), folder=folder / "notes.txt" / "here", formats=[ModelFormat.keras])
    with pytest.raises(DataError, match=r"notes\.txt"):
        export_folds(**key(finished), folder=folder, folds=[0], formats=[ModelFormat.keras])
    assert (folder / "notes.txt").is_file() and (folder / "fold-1.keras").is_file()
    with pytest.raises(DataError, match=r"notes\.txt"):
        export_folds(**key(finished), folder=folder / "notes.txt", formats=[ModelFormat.keras])


@pytest.mark.parametrize(
    "text",
    [
        '{"files": ["a.bin"]}',
        '{"files": [{"name": "a.bin"}]}',
        '{"fingerprint": "f", "classes": ["a"], "files": ["a.bin"]}',
        '{"fingerprint": "f", "classes": ["a"], "files": [{"name": ["a.bin"]}]}',
        '{"fingerprint": "f", "classes": ["a"], "files": 3}',
        '["files"]',
        "not JSON",
    ],
)
def test_another_programs_model_json_is_left_alone(finished: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text, "utf-8")
    (tmp_path / "a.bin").write_text("weights", "utf-8")
    with pytest.raises(DataError, match=r"holds what is not of an export: a\.bin, model\.json"):
        export_folds(**key(finished), folder=tmp_path, formats=[ModelFormat.keras])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "model.json"]


def test_a_missing_package_is_named_with_what_to_install(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else there(name))
    with pytest.raises(KitError, match=r"not installed: tf2onnx[\s\S]*pip install 'kaggle-image-kit\[export\]'"):
        export_folds(**key(finished), folder=tmp_path / "onnx")
    done = export_folds(**key(finished), folder=tmp_path / "keras", folds=[0], formats=[ModelFormat.keras])
    assert [file.name for file in done.files] == ["fold-0.keras"]


def test_what_cannot_be_exported_is_refused(copied: Run) -> None:
    with pytest.raises(DataError, match="no finished experiment 'other'"):
        export_folds(**{**key(copied), "experiment": "other"})
    manifest = read_json(copied.oof / MANIFEST)
    write_json(copied.oof / MANIFEST, {**manifest, "recipe": None})
    with pytest.raises(DataError, match="is a blend and has no networks"):
        export_folds(**key(copied))
    write_json(copied.oof / MANIFEST, {**manifest, "data_sha256": "other"})
    with pytest.raises(DataError, match=r"data_sha256 differs"):
        export_average(**key(copied))
    write_json(copied.oof / MANIFEST, manifest)
    shutil.rmtree(copied.task(1).folder)
    with pytest.raises(DataError, match=r"fold-1[\s\S]*kit train"):
        export_folds(**key(copied))


def test_zeros_around_a_picture_take_part_in_the_maximum(tmp_path: Path) -> None:
    """As in ResNet V2, with no ReLU before it: ONNX Runtime pads with what takes part in no maximum."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3)).astype(np.uint8)
    given = keras.Input((None, None, 3), dtype="uint8")
    negative = keras.layers.Conv2D(4, 3, strides=2, bias_initializer=keras.initializers.Constant(-500.0))
    made = negative(keras.layers.Rescaling(1.0)(given))
    made = keras.layers.MaxPooling2D(3, strides=2)(keras.layers.ZeroPadding2D(1)(made))
    network = keras.Model(given, keras.layers.GlobalAveragePooling2D()(made))
    [found] = write_and_run(network, tmp_path / "pool.onnx", [pictures], labels={})
    np.testing.assert_allclose(found, network(pictures), atol=1e-3)
