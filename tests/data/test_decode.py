"""Each kind of picture file as it comes out of the wild, against pixels worked out by hand."""

import io
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, features

from pipeline.data.decode import decode, decode_bytes, picture_size, resize
from pipeline.errors import DataError, PictureError
from tests.conftest import make_picture

ORIENTATION = 0x0112
# 2 × 3, no two pixels and no two corners alike: every turn and flip of it is another picture.
UPRIGHT = np.array(
    [
        [[250, 0, 0], [0, 250, 0], [0, 0, 250]],
        [[250, 250, 0], [0, 250, 250], [250, 0, 250]],
    ],
    dtype=np.uint8,
)
# What a camera stores that says "show me so": the inverse of the turn that the standard prescribes.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT, 1),
    7: np.rot90(UPRIGHT, 2).transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def assert_size_agrees(path: Path) -> None:
    assert picture_size(path) == decode(path).shape[:2]


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"picture.{suffix}", stored, exif=exif, **options)

    assert np.array_equal(decode(path), UPRIGHT)
    assert picture_size(path) == (2, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_a_jpeg(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    # Blocks of 16 × 16, so that JPEG keeps each colour.
    stored = np.kron(STORED[orientation], np.ones((16, 16, 1), dtype=np.uint8))
    path = save(tmp_path / "picture.jpg", Image.fromarray(stored), exif=exif, quality=95, subsampling=0)

    pixels = decode(path)
    assert pixels.shape == (32, 48, 3)
    assert np.abs(pixels[8::16, 8::16].astype(int) - UPRIGHT).max() < 12
    assert picture_size(path) == (32, 48)


def test_grey_becomes_three_equal_channels(tmp_path):
    grey = np.array([[0, 100], [200, 255]], dtype=np.uint8)
    path = save(tmp_path / "grey.png", Image.fromarray(grey))
    assert np.array_equal(decode(path), np.stack([grey] * 3, axis=-1))
    assert_size_agrees(path)


def test_black_and_white(tmp_path):
    path = save(tmp_path / "bits.png", Image.fromarray(np.array([[True, False, True]])))
    assert decode(path).tolist() == [[[255] * 3, [0] * 3, [255] * 3]]
    assert_size_agrees(path)


def test_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    path = save(tmp_path / "palette.png", image)
    assert decode(path).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert_size_agrees(path)


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_what_is_transparent_in_a_palette_is_white(tmp_path, transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    path = save(tmp_path / "palette.png", image, transparency=transparency)
    assert decode(path).tolist() == [[[255, 255, 255], [200, 100, 50]]]
    assert_size_agrees(path)


def test_transparent_colour_of_a_grey_and_of_an_rgb_png(tmp_path):
    grey = save(tmp_path / "grey.png", Image.fromarray(np.array([[7, 90]], dtype=np.uint8)), transparency=7)
    assert decode(grey).tolist() == [[[255] * 3, [90] * 3]]
    rgb = np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)
    coloured = save(tmp_path / "rgb.png", Image.fromarray(rgb), transparency=(1, 2, 3))
    assert decode(coloured).tolist() == [[[255] * 3, [4, 5, 6]]]


def test_alpha_is_laid_over_white(tmp_path):
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], dtype=np.uint8)
    path = save(tmp_path / "rgba.png", Image.fromarray(rgba))
    # 51 / 255 = 0.2 of the colour, 0.8 of white: 244, 224, 204.
    assert decode(path).tolist() == [[[200, 100, 0], [255, 255, 255], [244, 224, 204]]]
    assert_size_agrees(path)


def test_grey_with_alpha_is_laid_over_white(tmp_path):
    values = np.array([[[100, 255], [100, 0], [100, 51]]], dtype=np.uint8)
    path = save(tmp_path / "la.png", _la(values))
    assert decode(path).tolist() == [[[100] * 3, [255] * 3, [224] * 3]]
    assert_size_agrees(path)


def _la(values: np.ndarray) -> Image.Image:
    grey, alpha = (Image.fromarray(np.ascontiguousarray(values[..., channel])) for channel in (0, 1))
    return Image.merge("LA", (grey, alpha))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, suffix):
    values = np.array([[0, 257, 32768, 51400, 65535]], dtype=np.uint16)
    path = save(tmp_path / f"deep.{suffix}", Image.fromarray(values))
    # 65535 / 257 = 255; 51400 / 257 = 200; 32768 / 257 = 127.5…
    assert decode(path)[0, :, 0].tolist() == [0, 1, 128, 200, 255]
    assert_size_agrees(path)


def test_a_dark_sixteen_bit_png_stays_dark(tmp_path):
    path = save(tmp_path / "dark.png", Image.fromarray(np.array([[0, 200]], dtype=np.uint16)))
    assert decode(path)[0, :, 0].tolist() == [0, 1]


def test_cmyk(tmp_path):
    blocks = np.zeros((16, 48, 4), dtype=np.uint8)
    blocks[:, 16:32, 0] = 255  # cyan ink
    blocks[:, 32:, 3] = 255  # black ink
    path = save(tmp_path / "ink.jpg", Image.fromarray(blocks, mode="CMYK"), quality=95)
    white, cyan, black = decode(path)[8, [8, 24, 40]].astype(int)
    assert np.abs(white - 255).max() < 6
    assert np.abs(cyan - [0, 255, 255]).max() < 6
    assert np.abs(black).max() < 6
    assert_size_agrees(path)


def test_first_frame_of_an_animation(tmp_path):
    red, blue = (Image.new("RGB", (4, 2), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    for suffix in ("gif", "webp", "png"):
        options = {"lossless": True} if suffix == "webp" else {}
        path = tmp_path / f"film.{suffix}"
        red.save(path, save_all=True, append_images=[blue], duration=100, **options)
        assert decode(path).tolist() == [[[255, 0, 0]] * 4] * 2
        assert_size_agrees(path)


@pytest.mark.parametrize("name", ["with space.png", "Übergröße-画像.png", "日本 語.jpg", "%20#?.bmp"])
def test_names_with_spaces_and_other_letters(tmp_path, name):
    path = make_picture(tmp_path / "ordner mit ä" / name, size=(6, 5))
    assert decode(path).shape == (6, 5, 3)
    assert_size_agrees(path)


def test_result_is_writable_rgb_uint8(tmp_path):
    pixels = decode(make_picture(tmp_path / "p.png", size=(3, 5)))
    assert (pixels.shape, pixels.dtype) == ((3, 5, 3), np.uint8)
    pixels[0, 0] = 0  # augmentation works in place


def encoded(format: str, image: Image.Image | None = None, **options: object) -> bytes:
    """A file of 20 × 30 pixels, or of this image."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    (image or Image.fromarray(noise)).save(file, format, **options)
    return file.getvalue()


def png_of(header: bytes, *chunks: tuple[bytes, bytes], pixels: bytes = bytes(100)) -> bytes:
    """A PNG with this IHDR, whatever it claims."""
    listed = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in listed
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@cache
def hostile() -> dict[str, tuple[bytes, str | list[int]]]:
    """Each kind of file that is not met every day: its content, and why it cannot be read, or its first pixel."""
    jpeg, flat = encoded("JPEG"), encoded("PNG")
    size, ink = (
        jpeg.index(b"\xff\xc0") + 5,
        Image.fromarray(np.full((20, 30, 4), (255, 0, 0, 0), np.uint8), mode="CMYK"),
    )
    one, grey = bytes([0, 0, 0, 1] * 2), lambda *values, of: Image.fromarray(np.array([values], dtype=of))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    first = decode_bytes(flat)[0, 0].tolist()
    whole = decode_bytes(jpeg)[0, 0].tolist()
    return {
        "truncated.jpg": (jpeg[:-100], "truncated"),
        "truncated.png": (flat[:-100], "truncated"),
        "header-only.jpg": (jpeg[:20], "cannot be read as a picture"),
        "empty.jpg": (b"", "0 bytes"),
        "zeros.jpg": (bytes(1000), "cannot identify"),
        "text.jpg": (b"<html>404 not found</html>", "cannot identify"),
        "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot identify"),
        "packed.jpg": (b"PK\x03\x04" + bytes(30), "cannot identify"),
        "postscript.jpg": (encoded("EPS"), "cannot identify"),  # Pillow would have Ghostscript run it
        "document.jpg": (encoded("PDF"), "cannot identify"),
        "icon.png": (encoded("ICNS"), "cannot identify"),
        "huge.png": (png_of(struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)), "exceeds limit"),
        "huge.jpg": (jpeg[:size] + b"\xff" * 4 + jpeg[size + 4 :], "exceeds limit"),
        "nothing.png": (png_of(struct.pack(">IIBBBBB", 0, 10, 8, 0, 0, 0, 0)), "cannot identify"),
        "few-rows.png": (png_of(struct.pack(">IIBBBBB", 4000, 4000, 8, 0, 0, 0, 0)), "truncated"),
        "long-text.png": (
            png_of(one + b"\x08\0\0\0\0", (b"zTXt", b"k\0\0" + zlib.compress(bytes(2**21)))),
            "too large",
        ),
        "progressive.jpg": (encoded("JPEG", progressive=True), whole),
        "behind.jpg": (jpeg + b"behind it" * 100, whole),
        "burst.jpg": (encoded("MPO", save_all=True, append_images=[Image.new("RGB", (30, 20))]), whole),
        "profile.png": (encoded("PNG", icc_profile=srgb), first),
        "no-profile.png": (encoded("PNG", icc_profile=b"no profile"), first),
        "png.jpg": (flat, first),
        "webp.png": (encoded("WEBP", lossless=True), first),
        "bmp.gif": (encoded("BMP"), first),
        "lzw.tif": (encoded("TIFF", compression="tiff_lzw"), first),
        "pages.tif": (encoded("TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]), first),
        "ink.tif": (encoded("TIFF", ink), [0, 255, 255]),
        "big-endian.tif": (encoded("TIFF", grey(51400, 0, of=">u2")), [200] * 3),
        "float.tif": (encoded("TIFF", grey(np.nan, 9, of=np.float32)), [0] * 3),
        "negative.tif": (encoded("TIFF", grey(-5, 9, of=np.int32)), [0] * 3),
        "one.png": (png_of(one + b"\x10\2\0\0\0", pixels=b"\0\xff\xff\x80\0\0\0"), [255, 128, 0]),
    }


def write_hostile(folder: Path) -> dict[str, str | list[int]]:
    """Write them, and links that lead nowhere; what is to be said of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (content, _) in hostile().items():
        (folder / name).write_bytes(content)
    return {name: known for name, (_, known) in hostile().items()}


@pytest.mark.parametrize("name", list(hostile()))
def test_a_file_of_any_kind_is_read_or_named(tmp_path, name):
    content, known = hostile()[name]
    path = tmp_path / name
    path.write_bytes(content)
    if isinstance(known, list):
        assert decode(path)[0, 0].tolist() == known
        assert_size_agrees(path)
        return
    with pytest.raises(PictureError) as caught:
        decode(path)
    assert caught.value.problem.startswith(f"{path} ")
    assert known in caught.value.problem.removeprefix(f"{path} ")


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, why in {
        "loop.jpg": "not exist",
        "gone.jpg": "not exist",
        "x" * 300: "not exist",
        "folder.jpg": "directory",
    }.items():
        with pytest.raises(PictureError, match=why) as caught:
            decode(tmp_path / name)
        assert str(tmp_path / name) in caught.value.problem


@pytest.mark.parametrize("name", ["header-only.jpg", "empty.jpg", "text.jpg", "huge.png", "missing.jpg"])
def test_the_size_of_a_file_without_header_is_an_error_that_names_it(tmp_path, name):
    write_hostile(tmp_path)
    path = tmp_path / name
    with pytest.raises(DataError, match=name):
        picture_size(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_avif_is_upright(tmp_path, orientation):
    """Its orientation is a property of its own, not EXIF's; it is lossy, so the corners alone are looked at."""
    corner = np.zeros((20, 30, 3), np.uint8)
    corner[:8, :12] = 250
    files = []
    for suffix in ("avif", "png"):
        exif = Image.Exif()  # which saving an AVIF takes the orientation out of
        exif[ORIENTATION] = orientation
        files.append(save(tmp_path / f"picture.{suffix}", Image.fromarray(corner), exif=exif))
    avif, png = files
    assert_size_agrees(avif)
    assert np.abs(decode(avif).astype(int) - decode(png)).max() < 10


@pytest.mark.parametrize("suffix", [".avif", ".jp2"])
def test_a_format_that_this_pillow_does_not_read_is_named(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(b"of a newer kind")
    with pytest.raises(DataError) as caught:
        decode(path)
    assert "Pillow" not in caught.value.problem
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(DataError, match=rf"reads no {suffix} \(pip install -U pillow"):
        decode(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "webp", "avif", "jp2"])
def test_damage_anywhere_is_a_data_error_or_a_picture(tmp_path, suffix):
    """Whatever bytes are wrong, Pillow's many exceptions do not get through."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = tmp_path / f"picture.{suffix}"
    source = Image.open(make_picture(tmp_path / "source.png", size=(24, 20)))
    source.save(path, **({"exif": exif} if suffix not in {"gif", "bmp", "jp2"} else {}))
    whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    random = np.random.default_rng(0)
    failures = 0
    for _ in range(150):
        damaged = whole.copy()
        # Half of the hits in the header, where the structure is.
        end = len(damaged) if random.random() < 0.5 else min(120, len(damaged))
        damaged[random.integers(0, end, 3)] = random.integers(0, 256, 3)
        path.write_bytes(damaged[: random.integers(1, len(damaged) + 1)].tobytes())
        for read in (decode, picture_size):
            with suppress(DataError):  # and nothing else
                read(path)
                continue
            failures += 1
    assert failures > 50


def test_a_damaged_exif_block_does_not_cost_the_picture(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x011A] = 72.0  # a resolution
    resolution, maker = b"\x01\x1a\x00\x05", b"\x01\x0f\x00\x05"
    block = exif.tobytes()
    assert resolution in block
    stored = Image.fromarray(np.ascontiguousarray(STORED[6]))
    path = save(tmp_path / "camera.png", stored, exif=block.replace(resolution, maker))

    with pytest.raises((struct.error, AttributeError, TypeError)):  # or this test tests nothing
        ImageOps.exif_transpose(Image.open(path))
    assert np.array_equal(decode(path), UPRIGHT)
    assert_size_agrees(path)


def test_threads_leave_the_warning_filters_alone(tmp_path):
    """`warnings.catch_warnings` is not safe in threads: pictures are decoded in many."""
    path = make_picture(tmp_path / "p.jpg", size=(200, 200))
    barrier = threading.Barrier(4)

    def work(_: int) -> None:
        barrier.wait()
        for _ in range(30):
            decode(path)

    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert warnings.filters == before


def test_resize_takes_height_then_width():
    assert resize(UPRIGHT, (5, 7)).shape == (5, 7, 3)


def test_resize_down_averages_areas():
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    picture[:2, :2] = [[[0], [40]], [[80], [120]]]
    assert resize(picture, (2, 2))[..., 0].tolist() == [[60, 0], [0, 0]]


def test_resize_to_the_same_size_changes_nothing():
    assert np.array_equal(resize(UPRIGHT, (2, 3)), UPRIGHT)
