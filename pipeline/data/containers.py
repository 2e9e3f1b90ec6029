"""Files that hold pictures in a form that the kit does not read: what they are, and how to unpack them."""

from collections import Counter
from pathlib import Path

from pipeline.errors import DataError, counted

_HDF5 = """python -c "
import h5py, pathlib
out = pathlib.Path('{stem}'); out.mkdir()
for key, value in h5py.File('{name}').items(): (out / (key + '.jpg')).write_bytes(bytes(value[()]))
" """
_PARQUET = """python -c "
import pathlib, numpy as np, pandas as pd
from PIL import Image
height, width = HEIGHT, WIDTH
out = pathlib.Path('{stem}'); out.mkdir()
for key, *values in pd.read_parquet('{name}').itertuples(index=False):
    Image.fromarray(np.array(values, np.uint8).reshape(height, width)).save(out / (str(key) + '.png'))
" """
_TFRECORD = """python -c "
import pathlib, tensorflow as tf
out = pathlib.Path('{stem}'); out.mkdir()
for row in tf.data.TFRecordDataset('{name}'):
    found = tf.train.Example.FromString(row.numpy()).features.feature
    name = found['image_name'].bytes_list.value[0].decode()
    (out / name).write_bytes(found['image'].bytes_list.value[0])
" """
_NUMPY = """python -c "
import pathlib, numpy as np
from PIL import Image
out = pathlib.Path('{stem}'); out.mkdir()
for number, picture in enumerate(np.load('{name}')): Image.fromarray(picture).save(out / (str(number) + '.png'))
" """
_DICOM = """pip install pydicom && python -c "
import pathlib, numpy as np, pydicom
from PIL import Image
for path in pathlib.Path('.').rglob('*.dcm'):
    values = pydicom.dcmread(path).pixel_array.astype(float)
    scaled = (values - values.min()) / max(1, np.ptp(values)) * 255
    Image.fromarray(scaled.astype(np.uint8)).save(path.with_suffix('.png'))
" """
CONTAINERS = {
    ".hdf5": ("HDF5, a data set a picture", _HDF5),
    ".h5": ("HDF5, a data set a picture", _HDF5),
    ".parquet": ("Parquet, a row of pixels a picture", _PARQUET),
    ".tfrec": ("TFRecord", _TFRECORD),
    ".tfrecord": ("TFRecord", _TFRECORD),
    ".tfrecords": ("TFRecord", _TFRECORD),
    ".npy": ("a NumPy array of pictures", _NUMPY),
    ".dcm": ("DICOM", _DICOM),
    ".dicom": ("DICOM", _DICOM),
    ".heic": ("HEIC", "heif-convert or another program, to JPEG"),
    ".zip": ("a zip", "unzip {name} -d {stem}"),
    ".tar": ("a tar", "mkdir {stem} && tar xf {name} -C {stem}"),
    ".gz": ("packed by gzip", "tar xzf {name}, or gunzip {name}"),
    ".tgz": ("packed by gzip", "mkdir {stem} && tar xzf {name} -C {stem}"),
    ".7z": ("packed by 7-Zip", "7z x {name} -o{stem}"),
}
"""By suffix: what such a file is, and a command that makes picture files of it."""


def refuse_container(data: Path, found: list[Path], problem: str) -> DataError:
    """The error that says of what is in `data` instead of picture files how to make such files of it."""
    suffix, _ = Counter(path.suffix.lower() for path in found).most_common(1)[0]
    files = [path for path in found if path.suffix.lower() == suffix]
    what, command = CONTAINERS[suffix]
    place = files[0].relative_to(data)
    unpack = command.format(name=place.as_posix(), stem=place.with_suffix("").as_posix()).strip()
    more = " (so for each)" if len(files) > 1 else ""
    return DataError(
        f"{problem}, but {counted(len(files), 'file', 'files')} such as {place} ({what})",
        expected="picture files, each of its own",
        next_step=f"unpack them{more}, then again kit init. In {data}:\n{unpack}",
    )
