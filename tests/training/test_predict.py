"""A single picture is predicted as the test pictures were."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.artifacts import read_json, write_json
from pipeline.data.decode import decode, decode_bytes
from pipeline.errors import DataError
from pipeline.predictions.calibration import oof_temperature
from pipeline.predictions.store import read_experiment, read_predictions, write_predictions
from pipeline.training.predict import (
    LoadedModels,
    fit_oof_temperature,
    predict_pictures,
    read_fold_models,
    top_classes,
)
from tests.training.conftest import EXPERIMENT, Run

CLASSES = ["blue", "green", "red"]

# How a camera's rows and columns become what is seen, by EXIF orientation: which side of the picture row 0 and column 0
# are (TIFF 6.0, page 36).
UPRIGHT = {
    1: lambda stored: stored,  # top, left
    2: lambda stored: stored[:, ::-1],  # top, right
    3: lambda stored: stored[::-1, ::-1],  # bottom, right
    4: lambda stored: stored[::-1],  # bottom, left
    5: lambda stored: stored.swapaxes(0, 1),  # left, top
    6: lambda stored: stored[::-1].swapaxes(0, 1),  # right, top
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),  # left, bottom
}


def predicted(run: Run, *paths: Path, folds: list[int] | None = None, temperature: float | None = None) -> pd.DataFrame:
    models = read_fold_models(run.workspace, "tiny", EXPERIMENT, folds=folds)
    return predict_pictures(paths, models=models, temperature=temperature)


def paths_of(run: Run) -> list[Path]:
    return [Path(path) for path in run.data.test["path"]]


def test_pictures_of_the_test_set_get_their_stored_predictions(finished: Run) -> None:
    test = finished.data.test.set_index("id")["path"]
    order = ["t4.jpg", "t0.jpg", "t2.jpg"]
    found = predicted(finished, *(Path(test[key]) for key in order))
    stored = read_experiment(finished.workspace, "tiny", EXPERIMENT).test.set_index("id")
    assert list(found.columns) == ["picture", *CLASSES]
    assert list(found["picture"]) == [test[key] for key in order]
    np.testing.assert_allclose(found[CLASSES], stored.loc[order, CLASSES], atol=1e-5)
    alone = predicted(finished, Path(test["t2.jpg"]))
    np.testing.assert_allclose(alone[CLASSES], stored.loc[["t2.jpg"], CLASSES], atol=1e-5)


def phone_pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """A JPEG of each EXIF orientation as a telephone writes it, and each as it is seen, without EXIF."""
    random, phone, upright = np.random.default_rng(0), [], []
    for orientation, turn in UPRIGHT.items():
        # No two sides alike, so that every way to turn it wrongly can be told.
        pixels = random.integers(0, 60, (40, 48, 3)) + np.linspace(0, 190, 48, dtype=int)[:, None]
        pixels[:10, :24] = (250, 20, 20)
        exif = Image.Exif()
        exif[0x010F], exif[0x0110], exif[0x0112] = "Maker", "Telephone 6", orientation
        exif.get_ifd(0x8769)[0x9003] = "2024:05:17 12:30:00"
        phone.append(folder / f"phone-{orientation}.jpg")
        Image.fromarray(pixels.astype(np.uint8)).save(phone[-1], exif=exif, quality=90)
        with Image.open(phone[-1]) as image:
            stored = np.asarray(image.convert("RGB"))
        upright.append(folder / f"upright-{orientation}.png")
        Image.fromarray(np.ascontiguousarray(turn(stored))).save(upright[-1])
    return phone, upright


def test_a_telephones_picture_is_predicted_as_it_is_seen(finished: Run, tmp_path: Path) -> None:
    phone, upright = phone_pictures(tmp_path)
    for one, other in zip(phone, upright, strict=True):
        np.testing.assert_array_equal(decode(one), decode(other))
        np.testing.assert_array_equal(decode_bytes(one.read_bytes()), decode(other))
    turned, seen = (predicted(finished, *paths)[CLASSES].to_numpy() for paths in (phone, upright))
    np.testing.assert_array_equal(turned, seen)
    lying = tmp_path / "lying.png"
    with Image.open(phone[5]) as image:
        image.convert("RGB").save(lying, exif=b"")
    assert np.abs(predicted(finished, lying)[CLASSES].to_numpy()[0] - seen[5]).max() > 1e-4


def test_one_fold_model_or_several(finished: Run) -> None:
    first, second, both = (predicted(finished, *paths_of(finished), folds=folds) for folds in ([0], [1], None))
    assert np.abs(first[CLASSES] - second[CLASSES]).to_numpy().max() > 1e-3
    np.testing.assert_allclose(both[CLASSES], (first[CLASSES] + second[CLASSES]) / 2, atol=1e-6)
    again = predicted(finished, *paths_of(finished), folds=[1, 0, 1])
    np.testing.assert_allclose(again[CLASSES], both[CLASSES], atol=1e-6)
    with pytest.raises(DataError, match=r"has no fold 7\n  expected: one of 0, 1"):
        predicted(finished, *paths_of(finished), folds=[7])


def test_each_fold_models_probabilities_are_scaled_then_averaged(finished: Run) -> None:
    raw = [predicted(finished, *paths_of(finished), folds=[fold])[CLASSES].to_numpy() for fold in (0, 1)]
    least = np.finfo(np.float32).eps  # what a probability of nothing counts as
    powers = [np.maximum(one, least).astype(np.float64) ** (1 / 2.5) for one in raw]
    expected = np.mean([one / one.sum(axis=1, keepdims=True) for one in powers], axis=0)
    found = predicted(finished, *paths_of(finished), temperature=2.5)[CLASSES]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_loaded_models_predict_as_the_files_are(finished: Run) -> None:
    models = read_fold_models(finished.workspace, "tiny", EXPERIMENT)
    for temperature in (None, 1.7):
        loaded = LoadedModels(models, temperature=temperature)
        expected = predicted(finished, *paths_of(finished), temperature=temperature)[CLASSES].to_numpy()
        found = [loaded.predict(decode(path)) for path in paths_of(finished)]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert loaded._network.predict_function.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(("used", "file"), [(True, "oof_tta.parquet"), (False, "oof.parquet")])
def test_the_temperature_is_of_the_predictions_that_pictures_get(copied: Run, used: bool, file: str) -> None:
    manifest = {**read_json(copied.oof / "manifest.json"), "tta_used": used}
    write_json(copied.oof / "manifest.json", manifest)
    frame = read_predictions(copied.oof / file)
    frame.loc[0, CLASSES] = [0.2, 0.3, 0.5]  # blue: one is wrong, whatever the training came to
    write_predictions(copied.oof / file, frame)
    models = read_fold_models(copied.workspace, "tiny", EXPERIMENT)
    labels = copied.data.train.set_index("id").loc[frame["id"], "label"].map(CLASSES.index).to_numpy()
    expected = oof_temperature(frame[CLASSES].to_numpy(), labels, frame["fold"].to_numpy())
    assert fit_oof_temperature(models, copied.workspace) == expected
    assert expected is not None


def test_without_the_labels_the_error_says_how_to_do_without(copied: Run) -> None:
    models = read_fold_models(copied.workspace, "tiny", EXPERIMENT)
    (copied.competition.data / "train.csv").unlink()
    with pytest.raises(DataError, match=r"no temperature can be fitted: .*train\.csv does not exist[\s\S]*--raw"):
        fit_oof_temperature(models, copied.workspace)


def test_the_likeliest_classes_come_first() -> None:
    found = top_classes(np.array([0.1, 0.4, 0.4, 0.1], dtype=np.float32), ["a", "b", "c", "d"], count=3)
    assert [name for name, _ in found] == ["b", "c", "a"]
    assert [value for _, value in found] == pytest.approx([0.4, 0.4, 0.1])
    assert len(top_classes(np.ones(2, dtype=np.float32) / 2, ["a", "b"], count=9)) == 2


def test_a_picture_that_cannot_be_read_is_named_wherever_it_stands(finished: Run, tmp_path: Path) -> None:
    good = Path(finished.data.test["path"].iloc[0])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(good.read_bytes()[:200])
    for paths in ([broken], [good, broken]):
        with pytest.raises(DataError, match=r"broken\.jpg") as refused:
            predicted(finished, *paths)
        assert refused.value.next_step == "replace the file, or predict the other pictures without it"
    with pytest.raises(DataError, match=r"absent\.jpg does not exist"):
        predicted(finished, tmp_path / "absent.jpg")


def test_without_the_weights_the_error_says_how_to_get_them(copied: Run) -> None:
    shutil.rmtree(copied.task(1).folder)
    with pytest.raises(DataError, match=r"fold-1[\s\S]*kit train"):
        predicted(copied, Path(copied.data.test["path"].iloc[0]))


def test_weights_that_are_not_those_of_the_result_are_refused(copied: Run) -> None:
    """A training that was begun anew has weights from its first epoch on."""
    done = copied.task(1).folder / "fold.json"
    assert read_fold_models(copied.workspace, "tiny", EXPERIMENT).weights[1].is_file()
    known, weights = read_json(done), copied.task(1).weights
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match="are damaged, or of another build"):
        read_fold_models(copied.workspace, "tiny", EXPERIMENT)
    weights.write_bytes(content)
    done.write_text("{", "utf-8")
    with pytest.raises(DataError, match="is damaged\n"):
        read_fold_models(copied.workspace, "tiny", EXPERIMENT)
    write_json(done, {**known, "fingerprint": "other"})
    with pytest.raises(DataError, match=rf"another recipe than the result of {EXPERIMENT}\n.*\n  next: remove "):
        read_fold_models(copied.workspace, "tiny", EXPERIMENT)
    done.unlink()
    with pytest.raises(DataError, match=f"fold 1 of {EXPERIMENT} is not trained to its end") as refused:
        read_fold_models(copied.workspace, "tiny", EXPERIMENT)
    assert refused.value.next_step.startswith(f"give the `kit train` command that made {EXPERIMENT} again")
    assert list(read_fold_models(copied.workspace, "tiny", EXPERIMENT, folds=[0]).weights) == [0]


def test_the_size_is_that_of_the_result(copied: Run) -> None:
    (copied.task(0).weights.parent / "stage.json").unlink()
    assert read_fold_models(copied.workspace, "tiny", EXPERIMENT).sizes == {0: (32, 32), 1: (32, 32)}


def test_an_experiment_that_is_not_there_is_an_error(finished: Run) -> None:
    with pytest.raises(DataError, match="no finished experiment 'other'"):
        read_fold_models(finished.workspace, "tiny", "other")
