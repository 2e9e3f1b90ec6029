"""Files that hold pictures in another form: named, refused, and unpacked by the command that the refusal gives."""

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from pipeline.data.decode import decode
from pipeline.data.infer import infer
from pipeline.data.infer_wishes import Wishes
from pipeline.errors import DataError
from tests.conftest import make_picture, write_table


def refusal(data: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        infer("new", data, Wishes())
    return caught.value


def unpack(data: Path, error: DataError) -> list[str]:
    """Run the command that a refusal gives, where it says; the picture files that are there then."""
    where, command = error.next_step.split("\n", 1)
    assert where.endswith(f"In {data}:")
    python = f"{sys.executable} "
    command = command.replace("python ", python, 1).replace("HEIGHT, WIDTH", "4, 6")
    subprocess.run(command, shell=True, check=True, cwd=data, capture_output=True)
    return sorted(path.relative_to(data).as_posix() for path in data.rglob("*") if path.suffix in {".jpg", ".png"})


def pictures(folder: Path) -> dict[str, bytes]:
    return {f"p{n}": make_picture(folder / f"p{n}.jpg", seed=n, size=(8, 10)).read_bytes() for n in range(2)}


def test_hdf5(tmp_path):
    """isic-2024-challenge: a data set of JPEG bytes a picture."""
    data = tmp_path / "d"
    data.mkdir()
    made = pictures(tmp_path)
    with h5py.File(data / "train-image.hdf5", "w") as file:
        for key, content in made.items():
            file.create_dataset(key, data=np.void(content))
    error = refusal(data)
    assert "holds no pictures, but 1 file such as train-image.hdf5 (HDF5" in error.problem
    assert unpack(data, error) == ["train-image/p0.jpg", "train-image/p1.jpg"]
    assert (data / "train-image" / "p1.jpg").read_bytes() == made["p1"]


def test_parquet(tmp_path):
    """bengaliai-cv19: a row of pixels a picture."""
    pixels = np.arange(48, dtype=np.uint8).reshape(2, 24)
    table = pd.DataFrame(pixels, columns=[str(n) for n in range(24)])
    table.insert(0, "image_id", ["Train_0", "Train_1"])
    table.to_parquet(tmp_path / "train_image_data_0.parquet")
    table.to_parquet(tmp_path / "train_image_data_1.parquet")
    error = refusal(tmp_path)
    assert "2 files such as train_image_data_0.parquet (Parquet" in error.problem
    assert "so for each" in error.next_step
    assert unpack(tmp_path, error) == ["train_image_data_0/Train_0.png", "train_image_data_0/Train_1.png"]
    np.testing.assert_array_equal(
        decode(tmp_path / "train_image_data_0" / "Train_1.png")[..., 0], pixels[1].reshape(4, 6)
    )


def test_numpy(tmp_path):
    np.save(tmp_path / "train.npy", np.zeros((2, 4, 6, 3), np.uint8))
    assert unpack(tmp_path, refusal(tmp_path)) == ["train/0.png", "train/1.png"]


@pytest.mark.slow
def test_tfrecord(tmp_path, monkeypatch):
    """cassava-leaf-disease-classification: JPEG bytes and a name."""
    import tensorflow as tf

    data = tmp_path / "d"
    data.mkdir()
    made = pictures(tmp_path)
    with tf.io.TFRecordWriter(str(data / "ld_train00-2.tfrec")) as writer:
        for key, content in made.items():
            values = {"image": content, "image_name": f"{key}.jpg".encode()}
            feature = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in values.items()
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    program = refusal(data).next_step.split('python -c "')[1].rstrip('" ')
    monkeypatch.chdir(data)
    exec(program, {})
    assert (data / "ld_train00-2" / "p1.jpg").read_bytes() == made["p1"]


def test_an_archive(tmp_path):
    data = tmp_path / "d"
    data.mkdir()
    pictures(tmp_path / "train")
    shutil.make_archive(str(data / "train"), "zip", tmp_path / "train")
    error = refusal(data)
    assert error.next_step.endswith("unzip train.zip -d train")
    shutil.unpack_archive(data / "train.zip", data / "train")
    assert "holds no labels" in refusal(data).problem


def test_dicom(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.dcm").write_bytes(b"DICM")
    error = refusal(tmp_path)
    assert "1 file such as train/1.dcm (DICOM)" in error.problem
    assert "pydicom" in error.next_step


def test_pictures_to_predict_that_are_still_packed(tmp_path):
    """isic-2024-challenge: the training pictures as files, too, those to predict not."""
    for number in range(4):
        make_picture(tmp_path / "train" / f"a{number}.jpg", seed=number, size=(8, 10))
    write_table(tmp_path / "train.csv", "id,label", *(f"a{number},{number % 2}" for number in range(4)))
    write_table(tmp_path / "sample_submission.csv", "id,label", "b0,0.3", "b1,0.3")
    assert "no picture bears an id" in refusal(tmp_path).problem
    with h5py.File(tmp_path / "test-image.hdf5", "w") as file:
        for key, content in zip(("b0", "b1"), pictures(tmp_path.parent / "made").values(), strict=True):
            file.create_dataset(key, data=np.void(content))
    error = refusal(tmp_path)
    assert (
        "no picture bears an id of the sample submission, such as b0, b1, but 1 file such as test-image"
        in error.problem
    )
    unpack(tmp_path, error)
    assert infer("new", tmp_path, Wishes())[0].test.pictures == "test-image"
