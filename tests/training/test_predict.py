"""A single picture is predicted as the test pictures were."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.errors import DataError
from pipeline.predictions.store import read_experiment
from pipeline.training.predict import predict_pictures
from tests.training.conftest import EXPERIMENT, Run

CLASSES = ["blue", "green", "red"]
_ROTATED_RIGHT = 6  # the EXIF orientation of a camera held upright


def predicted(run: Run, *paths: Path) -> pd.DataFrame:
    return predict_pictures(paths, slug="tiny", experiment=EXPERIMENT, workspace=run.workspace)


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


def test_a_picture_is_turned_as_its_exif_says(finished: Run, tmp_path: Path) -> None:
    with Image.open(finished.data.test["path"].iloc[0]) as image:
        upright = image.convert("RGB")
    # A quarter lighter, so that up and down, left and right are not the same to the network.
    pixels = np.array(upright)
    pixels[: len(pixels) // 4] = 255
    upright = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = _ROTATED_RIGHT
    names = [tmp_path / name for name in ("upright.png", "exif.png", "rotated.png")]
    upright.save(names[0])
    upright.rotate(90, expand=True).save(names[1], exif=exif)
    upright.rotate(90, expand=True).save(names[2])
    first, turned, lying = predicted(finished, *names)[CLASSES].to_numpy()
    np.testing.assert_array_equal(turned, first)
    assert np.abs(lying - first).max() > 1e-4


def test_a_picture_that_cannot_be_read_is_named_wherever_it_stands(finished: Run, tmp_path: Path) -> None:
    good = Path(finished.data.test["path"].iloc[0])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(good.read_bytes()[:200])
    for paths in ([broken], [good, broken]):
        with pytest.raises(DataError, match=r"broken\.jpg"):
            predicted(finished, *paths)
    with pytest.raises(DataError, match=r"absent\.jpg does not exist"):
        predicted(finished, tmp_path / "absent.jpg")


def test_without_the_weights_the_error_says_how_to_get_them(copied: Run) -> None:
    shutil.rmtree(copied.task(1).folder)
    with pytest.raises(DataError, match=r"fold-1[\s\S]*kit train"):
        predicted(copied, Path(copied.data.test["path"].iloc[0]))


def test_an_experiment_that_is_not_there_is_an_error(finished: Run) -> None:
    with pytest.raises(DataError, match="no finished experiment 'other'"):
        predict_pictures([], slug="tiny", experiment="other", workspace=finished.workspace)
