"""The demo's camera: lays a drawn card on a table and takes a small, imperfect photograph of it.

Owns the scene: tables, perspective, shadow, light and what a cheap sensor does to it. Everything random comes
from the generator passed in, so a picture is a function of (label, generator state, size) alone.
Colours are float32 RGB in 0..1; lengths are in pixels of the scene, which is twice as large as the picture.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.demo.cards import CARD_PIXELS, DECKS, draw_back, draw_face

Pixels = NDArray[np.float32]
Colour = tuple[float, float, float]
_Choice = TypeVar("_Choice")

_SUPERSAMPLING = 2
_MARGIN = 0.98
"""Share of the picture that the card's bounding box fills when it just fits."""
_CARD_ASPECT = CARD_PIXELS[0] / CARD_PIXELS[1]


def render_card(label: str, *, rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Photograph one playing card.

    Args:
        label: One of `pipeline.demo.cards.CLASSES`.
        rng: Where deck, table, pose, light and noise come from.
        size: Height and width of the photograph in pixels, each at least 16.

    Returns:
        RGB, uint8, shape (height, width, 3).

    Raises:
        ValueError: If `label` is no class of the demo or `size` is smaller than 16 pixels.
    """
    if min(size) < 16:
        raise ValueError(f"size is {size}; expected a height and a width of at least 16 pixels")
    height, width = (side * _SUPERSAMPLING for side in size)
    deck = DECKS[rng.integers(len(DECKS))]
    face = draw_face(label, deck)

    scene = _TABLES[rng.integers(len(_TABLES))](rng, height, width)
    corners = _lay_card(rng, height, width)
    if rng.random() < 0.35:
        neighbour = DECKS[rng.integers(len(DECKS))] if rng.random() < 0.3 else deck
        _place(scene, draw_back(neighbour), _lay_neighbour(rng, corners), rng)
    _place(scene, face, corners, rng)
    return _expose(rng, _light(rng, scene), size)


def _lay_card(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Choose a pose. Returns the card's corners in the scene (4, 2), clockwise from its upper left one."""
    turn = math.radians(rng.uniform(-20, 20))
    tilt_x, tilt_y = math.radians(rng.uniform(-24, 24)), math.radians(rng.uniform(-24, 24))
    half = np.array([[-1, -_CARD_ASPECT], [1, -_CARD_ASPECT], [1, _CARD_ASPECT], [-1, _CARD_ASPECT]])
    turned = half @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    x, y = turned[:, 0] * math.cos(tilt_y), turned[:, 1] * math.cos(tilt_x)
    depth = 6.5 + turned[:, 0] * math.sin(tilt_y) + turned[:, 1] * math.sin(tilt_x)
    seen = np.stack([x, y], 1) / depth[:, None]
    seen -= (seen.max(0) + seen.min(0)) / 2
    fits = _MARGIN * np.array([width, height]) / (seen.max(0) - seen.min(0))
    # In a frame much wider or taller than the card, come closer and let the card's ends leave the picture:
    # whoever photographs a card fills the frame, and a card shrunk to fit would be too small to read.
    scale = fits.min() * min(1.16, (fits.max() / fits.min()) ** 0.3) * rng.uniform(0.86, 1.02)
    slack = np.abs(np.array([width, height]) - scale * (seen.max(0) - seen.min(0)))
    centre = np.array([width, height]) / 2 + slack * rng.uniform(-0.3, 0.3, 2)
    return np.asarray(centre + scale * seen, np.float32)


def _lay_neighbour(rng: np.random.Generator, corners: Pixels) -> Pixels:
    """Push a second card out to one side of the first, and turn it a little. Returns its corners (4, 2)."""
    right, down = corners[1] - corners[0], corners[3] - corners[0]
    side = rng.choice([-1.0, 1.0])
    centre = corners.mean(0) + right * side * rng.uniform(0.5, 0.95) + down * rng.uniform(-0.35, 0.35)
    turn = math.radians(rng.uniform(-50, 50))
    spin = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return np.asarray(centre + (corners - corners.mean(0)) @ spin, np.float32)


def _place(scene: Pixels, card: NDArray[np.uint8], corners: Pixels, rng: np.random.Generator) -> None:
    """Draw a card and its shadow into the scene, in place."""
    rows, columns = card.shape[:2]
    height, width = scene.shape[:2]
    printed = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32)
    warp = cv2.getPerspectiveTransform(printed, corners)
    seen = np.asarray(cv2.warpPerspective(card, warp, (width, height), flags=cv2.INTER_LINEAR), np.float32)
    seen /= 255
    alpha = seen[..., 3:]

    reach = float(np.linalg.norm(corners[3] - corners[0]))
    angle, length = rng.uniform(0, 2 * math.pi), reach * rng.uniform(0.015, 0.05)
    shift = np.array([[1, 0, length * math.cos(angle)], [0, 1, length * math.sin(angle)]], np.float32)
    moved = cv2.warpAffine(alpha, shift, (width, height), borderMode=cv2.BORDER_REPLICATE)
    soft = _blur(np.asarray(moved, np.float32), reach * rng.uniform(0.015, 0.04))
    contact = _blur(seen[..., 3], reach * 0.008)
    scene *= 1 - np.clip(rng.uniform(0.35, 0.6) * soft + 0.22 * contact, 0, 0.75)[..., None]

    # The printed card is lit by a broad band of reflected light.
    ys, xs = _grid(height, width)
    angle = rng.uniform(0, math.pi)
    along = (xs * math.cos(angle) + ys * math.sin(angle) - rng.uniform(-0.7, 0.7)) / 0.35
    gloss = (rng.uniform(0.0, 0.14) * np.exp(-(along**2)))[..., None]
    # `seen` is premultiplied by alpha, and gloss lies on the card alone.
    scene *= 1 - alpha
    scene += seen[..., :3] * (rng.uniform(0.9, 0.98) * (1 - gloss)) + gloss * alpha


def _light(rng: np.random.Generator, scene: Pixels) -> Pixels:
    """Light the scene unevenly: a slope, a lamp's glow, the lens's vignette and a cast of colour."""
    ys, xs = _grid(*scene.shape[:2])
    angle = rng.uniform(0, 2 * math.pi)
    light = 1 + rng.uniform(0.0, 0.2) * (xs * math.cos(angle) + ys * math.sin(angle))
    at_y, at_x = rng.uniform(-1, 1), rng.uniform(-1, 1)
    light += rng.uniform(0.0, 0.22) * (np.exp(-((xs - at_x) ** 2 + (ys - at_y) ** 2) / 0.7) - 0.3)
    light *= 1 - rng.uniform(0.03, 0.2) * (xs**2 + ys**2)
    warmth, tint = rng.normal(0.01, 0.035), rng.uniform(-0.025, 0.025)
    white_balance = rng.uniform(0.9, 1.1) * np.array([1 + warmth, 1 + tint, 1 - warmth])
    return np.asarray(scene * (light[..., None] * white_balance.astype(np.float32)), np.float32)


def _expose(rng: np.random.Generator, scene: Pixels, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Focus, shrink to the picture's size and add the sensor's noise."""
    # Blur is measured against the frame so that a picture drawn larger looks the same, only finer.
    frame = float(np.sqrt(scene.shape[0] * scene.shape[1]))
    if rng.random() < 0.15:
        scene = _smear(scene, frame * rng.uniform(0.006, 0.016), rng.uniform(0, 180))
    scene = _blur(scene, frame * rng.uniform(0.0008, 0.0032))
    height, width = size
    picture = np.asarray(cv2.resize(scene, (width, height), interpolation=cv2.INTER_AREA), np.float32)
    grain = rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(0.003, 0.014))
    # Light arrives in photons: noise grows with the root of brightness, on top of a floor of the electronics.
    picture += grain * (0.4 + np.sqrt(np.clip(picture, 0, 1)))
    # A shoulder instead of a hard cut keeps the white of the card from burning out.
    picture = np.minimum(picture, 0.85 + 0.15 * np.tanh((picture - 0.85) / 0.15))
    return np.asarray(np.clip(picture, 0, 1) * 255 + 0.5, np.uint8)


def _felt(rng: np.random.Generator, height: int, width: int) -> Pixels:
    base = _pick(rng, [(0.07, 0.36, 0.2), (0.09, 0.42, 0.26), (0.36, 0.07, 0.11), (0.1, 0.2, 0.4), (0.22, 0.14, 0.3)])
    fluff = _blur(_noise(rng, height, width), 0.8)
    fibres = _smear(_noise(rng, height, width), 7, rng.uniform(0, 180))
    tone = 1 + 0.14 * fluff + 0.28 * fibres + 0.1 * _clouds(rng, height, width, 0.35)
    return _tinted(base, tone)


def _wood(rng: np.random.Generator, height: int, width: int) -> Pixels:
    dark, light = _pick(
        rng,
        [((0.28, 0.15, 0.08), (0.5, 0.3, 0.17)), ((0.5, 0.33, 0.18), (0.74, 0.54, 0.34)),
         ((0.2, 0.13, 0.1), (0.34, 0.23, 0.17)), ((0.6, 0.47, 0.34), (0.8, 0.68, 0.52))],
    )  # fmt: skip
    if rng.random() < 0.4:
        return np.ascontiguousarray(_planks(rng, width, height, dark, light).transpose(1, 0, 2))
    return _planks(rng, height, width, dark, light)


def _planks(rng: np.random.Generator, height: int, width: int, dark: Colour, light: Colour) -> Pixels:
    """Boards with the grain along x, each with its own figure and tone."""
    ys, _ = _grid(height, width)
    boards = int(rng.integers(2, 5))
    across = (ys + 1) / 2 * boards + rng.uniform(0, 1)
    board = np.floor(across).astype(int)
    offset = rng.uniform(0, 9, boards + 2).astype(np.float32)[board]
    tone = rng.uniform(-0.14, 0.14, boards + 2).astype(np.float32)[board]
    wander = _stretched(rng, height, width, 0.25, 7.0)
    rings = 0.5 + 0.5 * np.sin(2 * math.pi * (across * rng.uniform(1.5, 3) + offset + 1.1 * wander))
    pores = _stretched(rng, height, width, 0.008, 22.0)
    seam = np.exp(-((np.minimum(across % 1, 1 - across % 1) * height / boards / 2.2) ** 2))
    share = np.clip(0.25 + 0.5 * rings * np.sqrt(rings) + 0.12 * pores + tone, 0, 1)
    return np.asarray(_mixed(dark, light, share) * (1 - 0.6 * seam[..., None]), np.float32)


def _marble(rng: np.random.Generator, height: int, width: int) -> Pixels:
    stone, vein = _pick(
        rng,
        [((0.8, 0.79, 0.77), (0.46, 0.46, 0.48)), ((0.1, 0.11, 0.12), (0.62, 0.58, 0.5)),
         ((0.1, 0.22, 0.18), (0.55, 0.68, 0.58)), ((0.7, 0.58, 0.5), (0.92, 0.86, 0.8))],
    )  # fmt: skip
    ys, xs = _grid(height, width)
    angle = rng.uniform(0, math.pi)
    course = xs * math.cos(angle) + ys * math.sin(angle)
    bent = course * rng.uniform(0.5, 1.1) + 0.38 * _clouds(rng, height, width, 0.5) + rng.uniform(0, 1)
    fine = course * 0.9 + 0.6 * _clouds(rng, height, width, 0.3)
    broad = np.exp(-np.abs(np.sin(math.pi * bent)) / 0.09)
    thin = np.exp(-np.abs(np.sin(math.pi * fine)) / 0.05)
    share = 0.08 + 0.75 * broad + 0.3 * thin + 0.12 * _clouds(rng, height, width, 0.4)
    return _mixed(stone, vein, np.clip(share, 0, 1))


def _cloth(rng: np.random.Generator, height: int, width: int) -> Pixels:
    base = _pick(
        rng,
        [(0.7, 0.2, 0.2), (0.2, 0.36, 0.58), (0.78, 0.7, 0.56), (0.8, 0.58, 0.2), (0.4, 0.5, 0.4),
         (0.5, 0.36, 0.5)],
    )  # fmt: skip
    ys, xs = _grid(height, width)
    scale = math.sqrt(height * width) / 2
    angle = rng.uniform(-0.6, 0.6)
    warp = (xs * width * math.cos(angle) + ys * height * math.sin(angle)) / 2
    weft = (-xs * width * math.sin(angle) + ys * height * math.cos(angle)) / 2
    check, white = scale * rng.uniform(0.18, 0.36), max(0.0, rng.uniform(-0.2, 0.4))
    stripes = ((warp / check % 2 < 1).astype(np.float32) + (weft / check % 2 < 1)) * np.float32(white)
    threads = np.sin(math.pi * warp / 2.2) * np.sin(math.pi * weft / 2.2)
    tone = 1 + 0.07 * threads + 0.06 * _noise(rng, height, width) + 0.16 * _clouds(rng, height, width, 0.6)
    return np.asarray(_mixed(base, (0.9, 0.88, 0.84), stripes) * tone[..., None], np.float32)


def _gradient(rng: np.random.Generator, height: int, width: int) -> Pixels:
    near, far = _pick(
        rng,
        [((0.16, 0.2, 0.3), (0.5, 0.58, 0.7)), ((0.86, 0.62, 0.5), (0.5, 0.34, 0.46)),
         ((0.22, 0.46, 0.46), (0.76, 0.82, 0.7)), ((0.3, 0.3, 0.32), (0.66, 0.66, 0.66)),
         ((0.9, 0.78, 0.5), (0.76, 0.46, 0.34))],
    )  # fmt: skip
    ys, xs = _grid(height, width)
    angle = rng.uniform(0, 2 * math.pi)
    slope = xs * math.cos(angle) + ys * math.sin(angle)
    share = 0.5 + 0.42 * slope + 0.06 * _clouds(rng, height, width, 0.7)
    return _mixed(near, far, np.clip(share, 0, 1))


_Table = Callable[[np.random.Generator, int, int], Pixels]
_TABLES: tuple[_Table, ...] = (_felt, _felt, _wood, _wood, _marble, _cloth, _gradient)
"""Felt and wood stand twice: most cards are played on them."""


def _pick(rng: np.random.Generator, choices: Sequence[_Choice]) -> _Choice:
    return choices[int(rng.integers(len(choices)))]


def _tinted(colour: Colour, tone: Pixels) -> Pixels:
    return np.asarray(colour, np.float32) * tone[..., None]


def _mixed(first: Colour, second: Colour, share: Pixels) -> Pixels:
    """Go from one colour to another by `share` (height, width), 0..1."""
    start, end = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return start + (end - start) * share[..., None]


def _grid(height: int, width: int) -> tuple[Pixels, Pixels]:
    """Return y and x from -1 to 1, shapes (height, 1) and (1, width)."""
    ys = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    return ys, np.linspace(-1, 1, width, dtype=np.float32)[None, :]


def _noise(rng: np.random.Generator, height: int, width: int) -> Pixels:
    return rng.standard_normal((height, width), np.float32)


def _clouds(rng: np.random.Generator, height: int, width: int, cell: float) -> Pixels:
    """Value noise in four octaves, about -1..1; `cell` is the coarsest one's size as a share of the frame."""
    # The finest octave spans many pixels: half the resolution loses nothing and costs a quarter.
    rows, columns = -(-height // 2), -(-width // 2)
    total = np.zeros((rows, columns), np.float32)
    for octave in range(4):
        total += _stretched(rng, rows, columns, cell / 2**octave, 1.0) * 0.5 ** (octave + 1)
    return np.asarray(cv2.resize(total, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _stretched(rng: np.random.Generator, height: int, width: int, cell: float, stretch: float) -> Pixels:
    """Smooth noise of unit scale with cells of `cell` frames in height, `stretch` times as wide."""
    side = cell * float(np.sqrt(height * width))
    rows, columns = int(height / side) + 3, int(width / side / stretch) + 3
    coarse = rng.standard_normal((rows, columns), np.float32)
    # Resized larger than needed and cropped, so that cells keep their size whatever the frame's shape.
    full = (round(columns * side * stretch), round(rows * side))
    return np.asarray(cv2.resize(coarse, full, interpolation=cv2.INTER_CUBIC), np.float32)[:height, :width]


def _blur(pixels: Pixels, sigma: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)


def _smear(pixels: Pixels, length: float, degrees: float) -> Pixels:
    """Blur along a line of `length` pixels, as a hand that moves does."""
    side = 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((side, side), np.float32)
    kernel[side // 2] = 1
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), degrees, 1.0)
    turned = np.asarray(cv2.warpAffine(kernel, turn, (side, side), flags=cv2.INTER_LINEAR), np.float32)
    turned /= turned.sum()
    return np.asarray(cv2.filter2D(pixels, -1, turned, borderType=cv2.BORDER_REPLICATE), np.float32)
