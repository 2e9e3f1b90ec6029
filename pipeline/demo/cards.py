"""The demo's deck: flat faces and backs of playing cards, drawn from polygons and Bezier curves.

Owns what is printed on a card. `photograph.py` lays the card on a table and takes its picture, and
`competition.py` writes the pictures as a competition. No picture or font file is read: the three index
glyphs come from the font inside Pillow, all else is geometry.

Coordinates are card units: the card is 100 wide and 140 high, x to the right, y downwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

RANKS = ("ace", "five", "king")
SUITS = ("spades", "hearts", "clubs", "diamonds")
CLASSES: tuple[str, ...] = tuple(f"{rank} of {suit}" for rank in RANKS for suit in SUITS)

CARD_WIDTH, CARD_HEIGHT = 100.0, 140.0
CARD_PIXELS = (336, 240)
"""Height and width of a drawn card, about what a card covers in a picture at twice its final size."""

_SUPERSAMPLING = 3
_UNIT = CARD_PIXELS[1] * _SUPERSAMPLING / CARD_WIDTH
_CORNER_RADIUS = 6.0

Point = tuple[float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Deck:
    """The inks of one printed deck; all decks share their shapes."""

    paper: Colour
    red: Colour
    black: Colour
    gold: Colour
    robe_left: Colour
    robe_right: Colour
    hair: Colour
    skin: Colour
    back: Colour


DECKS: tuple[Deck, ...] = (
    Deck(
        paper=(252, 251, 247), red=(200, 26, 36), black=(24, 24, 30), gold=(236, 184, 56),
        robe_left=(200, 40, 44), robe_right=(38, 74, 150),
        hair=(240, 226, 196), skin=(250, 224, 198), back=(176, 30, 44),
    ),
    Deck(
        paper=(250, 244, 230), red=(180, 32, 30), black=(36, 30, 32), gold=(208, 158, 62),
        robe_left=(32, 100, 104), robe_right=(168, 56, 44),
        hair=(150, 104, 66), skin=(244, 214, 184), back=(28, 72, 132),
    ),
    Deck(
        paper=(249, 250, 252), red=(216, 36, 52), black=(16, 18, 26), gold=(244, 200, 84),
        robe_left=(74, 62, 140), robe_right=(206, 66, 74),
        hair=(206, 208, 214), skin=(252, 228, 206), back=(30, 96, 74),
    ),
)  # fmt: skip


@cache
def draw_face(label: str, deck: Deck) -> NDArray[np.uint8]:
    """Draw the face of one card, as printed: no light, no perspective.

    Args:
        label: One of `CLASSES`.
        deck: The inks to print with.

    Returns:
        RGBA, uint8, `CARD_PIXELS` high and wide, read-only since it is cached. Colours are premultiplied
        by alpha, which is 0 outside the card's round corners.

    Raises:
        ValueError: If `label` is no class of the demo.
    """
    if label not in CLASSES:
        raise ValueError(f"no card is called {label!r}; expected one of {', '.join(CLASSES)}")
    rank, _, suit = label.split(" ")
    press = _Press(deck.paper)
    if rank == "king":
        _print_king(press, suit, deck)
    elif rank == "five":
        for x, y in ((31, 34), (69, 34), (50, 70), (31, 106), (69, 106)):
            press.pip(suit, (x, y), 25, _ink(suit, deck), upside_down=y > 70)
    else:
        _print_ace(press, suit, deck)
    press.index({"ace": "A", "five": "5", "king": "K"}[rank], suit, _ink(suit, deck))
    return press.finish()


@cache
def draw_back(deck: Deck) -> NDArray[np.uint8]:
    """Draw a card's back: a lattice with a rosette. Returns RGBA as `draw_face` does."""
    press = _Press(deck.paper)
    press.box((6, 6, 94, 134), 4, fill=deck.back)
    pale = _mix(deck.back, deck.paper, 0.72)
    for offset in range(-140, 240, 8):
        press.line([(offset, 0), (offset + 140, 140)], 0.8, pale)
        press.line([(offset, 140), (offset + 140, 0)], 0.8, pale)
    for row in range(2, 35):
        for column in range(2, 25):
            if (row + column) % 2 == 0:
                press.disc((column * 4, row * 4), 0.9, deck.gold if row % 4 == 0 else pale)
    for inset in (0.0, 2.2):
        press.box((-10 + inset, -10 + inset, 110 - inset, 150 - inset), 4, outline=deck.paper, width=16)
    press.box((8.4, 8.4, 91.6, 131.6), 3, outline=deck.back, width=1.2)
    press.disc((50, 70), 23, deck.paper)
    press.disc((50, 70), 21.5, deck.back)
    for petal in range(12):
        angle = petal * np.pi / 6
        around = (50 + 13 * np.cos(angle), 70 + 13 * np.sin(angle))
        press.disc(around, 4.6, pale)
        press.disc(around, 3.0, deck.back)
    press.disc((50, 70), 7.5, deck.paper)
    press.disc((50, 70), 5.5, deck.gold)
    return press.finish()


class _Press:
    """A sheet of card that shapes are printed on in card units, and that is cut out at the end."""

    def __init__(self, paper: Colour) -> None:
        self.paper = paper
        size = (CARD_PIXELS[1] * _SUPERSAMPLING, CARD_PIXELS[0] * _SUPERSAMPLING)
        self.sheet = Image.new("RGB", size, paper)
        self.pen = ImageDraw.Draw(self.sheet)

    def shape(self, points: Sequence[Point], fill: Colour, outline: Colour | None = None, width: float = 0.8) -> None:
        self.pen.polygon([(x * _UNIT, y * _UNIT) for x, y in points], fill=fill)
        if outline is not None:
            self.line([*points, points[0]], width, outline)

    def line(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        pixels = [(x * _UNIT, y * _UNIT) for x, y in points]
        self.pen.line(pixels, fill=fill, width=max(1, round(width * _UNIT)), joint="curve")

    def disc(self, centre: Point, radius: float, fill: Colour, outline: Colour | None = None) -> None:
        (x, y), edge = centre, 0.7
        if outline is not None:
            self.disc(centre, radius + edge, outline)
        box = [(x - radius) * _UNIT, (y - radius) * _UNIT, (x + radius) * _UNIT, (y + radius) * _UNIT]
        self.pen.ellipse(box, fill=fill)

    def box(
        self, corners: tuple[float, float, float, float], radius: float, *,
        fill: Colour | None = None, outline: Colour | None = None, width: float = 0.8,
    ) -> None:  # fmt: skip
        pixels = [value * _UNIT for value in corners]
        self.pen.rounded_rectangle(pixels, radius * _UNIT, fill, outline, round(width * _UNIT))

    def pip(self, suit: str, centre: Point, height: float, fill: Colour, *, upside_down: bool = False) -> None:
        for part in _PIPS[suit]:
            self.shape(_placed(part, centre, -height if upside_down else height), fill)

    def index(self, glyph: str, suit: str, fill: Colour) -> None:
        """Print rank and suit into the upper left corner and, turned around, into the lower right one."""
        # The built-in font has one weight; a stroke of the same ink makes it bold.
        font = ImageFont.load_default(17 * _UNIT)
        for _ in range(2):
            self.pen.text((8.8 * _UNIT, 19.5 * _UNIT), glyph, fill, font, anchor="ms", stroke_width=round(0.5 * _UNIT))
            self.pip(suit, (8.8, 28.5), 12, fill)
            self.half_turn()

    def half_turn(self) -> None:
        self.sheet = self.sheet.transpose(Image.Transpose.ROTATE_180)
        self.pen = ImageDraw.Draw(self.sheet)

    def finish(self) -> NDArray[np.uint8]:
        """Cut the card out along its round corners and shrink it. Returns read-only RGBA, uint8."""
        edge = _mix(self.paper, (120, 112, 100), 0.45)
        self.box((0, 0, CARD_WIDTH - 0.1, CARD_HEIGHT - 0.1), _CORNER_RADIUS, outline=edge, width=0.5)
        alpha = Image.new("L", self.sheet.size, 0)
        right, bottom = alpha.width - 1, alpha.height - 1
        ImageDraw.Draw(alpha).rounded_rectangle((0, 0, right, bottom), _CORNER_RADIUS * _UNIT, 255)
        cut = Image.new("RGB", self.sheet.size)
        cut.paste(self.sheet, mask=alpha)
        # Shrunk apart: Pillow would divide the colours of an RGBA picture by alpha again.
        shrunk = cut.reduce(_SUPERSAMPLING), alpha.reduce(_SUPERSAMPLING)
        pixels = np.dstack([np.asarray(layer, dtype=np.uint8) for layer in shrunk])
        pixels.flags.writeable = False
        return pixels


def _ink(suit: str, deck: Deck) -> Colour:
    return deck.red if suit in ("hearts", "diamonds") else deck.black


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _print_ace(press: _Press, suit: str, deck: Deck) -> None:
    ink = _ink(suit, deck)
    press.pip(suit, (50, 70), 58, ink)
    # A pale inner contour, as engraved aces have it; thin, and without the stem, so that the
    # suit stays plain to see.
    centre = (50.0, 71.5 if suit in ("spades", "clubs") else 69.5)
    for height, colour in ((40.0, _mix(ink, deck.paper, 0.55)), (37.5, ink)):
        for part in _PIPS[suit]:
            if part is not _STEM:
                press.shape(_placed(part, centre, height), colour)
    press.pip(suit, (50, 70), 10, deck.gold)


def _print_king(press: _Press, suit: str, deck: Deck) -> None:
    """Print a king, upper half first; the lower half is the same after half a turn."""
    press.box((16, 11, 84, 129), 1.5, fill=_mix(deck.paper, deck.gold, 0.16))
    for _ in range(2):
        _print_bust(press, suit, deck)
        press.half_turn()
    ink = deck.black
    press.shape([(16, 74.5), (16, 68), (84, 65.5), (84, 72)], deck.gold, ink)
    for step in range(9):
        x = 20 + 7.5 * step
        y = 71.3 - 2.5 * (x - 16) / 68
        press.shape([(x, y - 2.2), (x + 2.6, y), (x, y + 2.2), (x - 2.6, y)], _ink(suit, deck))
    # The seal repeats the suit where no corner of the picture can cut it off.
    press.disc((50, 70), 14.2, deck.gold, ink)
    press.disc((50, 70), 12.4, deck.paper, ink)
    press.pip(suit, (50, 70), 18.5, _ink(suit, deck))
    press.box((15.4, 10.4, 84.6, 129.6), 2, outline=deck.paper, width=1.4)
    press.box((16, 11, 84, 129), 1.5, outline=ink, width=0.8)


def _print_bust(press: _Press, suit: str, deck: Deck) -> None:
    ink, gold = deck.black, deck.gold
    # Both busts end under the sash: what reached beyond it would lie on the other one.
    left_robe = [(50.0, 71.0), *_curve((18, 71), (16, 62), (22, 55), (32, 52), (38, 50), (44, 47), (50, 47))]
    press.shape(left_robe, deck.robe_left, ink)
    press.shape([(100 - x, y) for x, y in left_robe], deck.robe_right, ink)
    for depth in range(3):
        press.line([(22 + 2 * depth, 71), (34 + 3 * depth, 51.5 - depth)], 1.0, gold)
        press.line([(78 - 2 * depth, 71), (66 - 3 * depth, 51.5 - depth)], 1.0, gold)
    press.shape([(39, 48), (61, 48), (55.5, 71), (44.5, 71)], deck.paper, ink)
    _print_sceptre(press, deck)
    for side in (-1, 1):
        for row in range(4):
            press.disc((50 + side * (12.2 + 0.8 * row), 33 + 4.2 * row), 3.3, deck.hair, ink)
    face = _curve((41, 27), (40, 36), (40, 44), (50, 48), (60, 44), (60, 36), (59, 27))
    press.shape(face, deck.skin, ink)
    beard = _curve(
        (40.5, 38), (41, 48), (43, 57), (47.5, 59), (49, 59), (49.5, 57), (50, 56),
        (50.5, 57), (51, 59), (52.5, 59), (57, 57), (59, 48), (59.5, 38), (57, 43), (53, 41), (50, 41),
        (47, 41), (43, 43), (40.5, 38),
    )  # fmt: skip
    press.shape(beard, deck.hair, ink)
    for x in (46.5, 50, 53.5):
        press.line([(x, 49), (50 + 0.8 * (x - 50), 55)], 0.5, ink)
    for side in (-1, 1):
        eye = 50 + side * 4.2
        press.line(_curve((eye - 2.4, 31.2), (eye - 1, 29.6), (eye + 1, 29.6), (eye + 2.4, 31.2)), 0.8, ink)
        press.shape(_curve((eye - 2, 33.4), (eye, 31.6), (eye, 31.6), (eye + 2, 33.4)), deck.paper, ink, 0.4)
        press.disc((eye, 33), 0.8, ink)
        moustache = _curve((50, 41), (50 + side * 3, 39.5), (50 + side * 6, 41), (50 + side * 8.4, 44.5))
        press.line(moustache, 1.8, _mix(deck.hair, ink, 0.35))
    press.line([(50, 32.5), (48.9, 38), (50.6, 38.4)], 0.6, ink)
    press.line(_curve((47.6, 44.6), (49, 45.8), (51, 45.8), (52.4, 44.6)), 1.1, deck.red)

    _print_crown(press, deck)
    press.pip(suit, (25, 22.5), 16.5, _ink(suit, deck))


def _print_crown(press: _Press, deck: Deck) -> None:
    ink, gold = deck.black, deck.gold
    press.shape(_curve((38, 25), (35, 12), (47, 13), (50, 14), (53, 13), (65, 12), (62, 25)), deck.red, ink)
    points = [(37, 27), (34.5, 15.5), (41.2, 20.5), (43.4, 14.4), (47, 19.6), (50, 13.4)]
    points += [(100 - x, y) for x, y in reversed(points[:-1])]
    press.shape(points, gold, ink)
    for x, y in ((34.5, 15.5), (50, 13.6), (65.5, 15.5)):
        press.disc((x, y), 1.5, deck.paper, ink)
    press.box((36.4, 24.6, 63.6, 28.6), 1.2, fill=gold, outline=ink, width=0.8)
    for step, jewel in enumerate((deck.robe_right, deck.red, deck.robe_right, deck.red, deck.robe_right)):
        press.disc((41 + 4.5 * step, 26.6), 1.1, jewel)


def _print_sceptre(press: _Press, deck: Deck) -> None:
    ink = deck.black
    press.line([(74, 71), (74, 26)], 3.0, ink)
    press.line([(74, 71), (74, 26)], 1.6, deck.gold)
    press.disc((74, 22.5), 4.2, deck.robe_right, ink)
    press.line([(70, 22.5), (78, 22.5)], 1.2, deck.gold)
    press.line([(74, 18), (74, 13.4)], 1.4, ink)
    press.line([(72, 15.4), (76, 15.4)], 1.4, ink)
    press.box((69.5, 56, 78.5, 62.5), 2.4, fill=deck.skin, outline=ink, width=0.7)
    for y in (58.2, 60.3):
        press.line([(70.5, y), (75.5, y)], 0.5, ink)
    press.box((68.5, 61.5, 79.5, 65.5), 1.2, fill=deck.paper, outline=ink, width=0.7)


def _curve(start: Point, *controls: Point) -> list[Point]:
    """Sample a chain of cubic Bezier curves: `start`, then (handle, handle, end) for each curve."""
    t = np.linspace(0.0, 1.0, 13)[:, None]
    points: list[Point] = [start]
    for first in range(0, len(controls), 3):
        a = np.array(points[-1])
        b, c, d = (np.array(point) for point in controls[first : first + 3])
        bent = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
        points += [(float(x), float(y)) for x, y in bent[1:]]
    return points


def _placed(part: Sequence[Point], centre: Point, scale: float) -> list[Point]:
    return [(centre[0] + scale * x, centre[1] + scale * y) for x, y in part]


def _circle(x: float, y: float, radius: float) -> list[Point]:
    angles = np.linspace(0.0, 2 * np.pi, 41)[:-1]
    return [(x + radius * float(np.cos(angle)), y + radius * float(np.sin(angle))) for angle in angles]


_STEM = _curve((0.0, 0.0), (0.02, 0.3), (0.08, 0.46), (0.2, 0.5), (0.1, 0.5), (-0.1, 0.5), (-0.2, 0.5),
               (-0.08, 0.46), (-0.02, 0.3), (0.0, 0.0))  # fmt: skip
_PIPS: dict[str, tuple[list[Point], ...]] = {
    "hearts": (
        _curve((0.0, -0.28), (0.06, -0.56), (0.47, -0.58), (0.47, -0.2), (0.47, 0.06), (0.12, 0.26),
               (0.0, 0.5), (-0.12, 0.26), (-0.47, 0.06), (-0.47, -0.2), (-0.47, -0.58), (-0.06, -0.56),
               (0.0, -0.28)),
    ),
    "diamonds": (
        _curve((0.0, -0.52), (0.1, -0.32), (0.24, -0.12), (0.4, 0.0), (0.24, 0.12), (0.1, 0.32), (0.0, 0.52),
               (-0.1, 0.32), (-0.24, 0.12), (-0.4, 0.0), (-0.24, -0.12), (-0.1, -0.32), (0.0, -0.52)),
    ),
    "spades": (
        _curve((0.0, -0.5), (0.12, -0.26), (0.46, -0.1), (0.46, 0.14), (0.46, 0.42), (0.1, 0.42), (0.0, 0.18),
               (-0.1, 0.42), (-0.46, 0.42), (-0.46, 0.14), (-0.46, -0.1), (-0.12, -0.26), (0.0, -0.5)),
        _STEM,
    ),
    "clubs": (_circle(0.0, -0.27, 0.23), _circle(-0.25, 0.1, 0.23), _circle(0.25, 0.1, 0.23),
              _circle(0.0, 0.0, 0.12), _STEM),
}  # fmt: skip
"""Each suit's outlines in a box of height 1 around the origin, painted over one another in one ink."""
