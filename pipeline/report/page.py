"""Pages: one HTML file with everything in it, that opens from disk without a network.

A page is a template that extends `base.html.j2` and fills two blocks, `lead` (under the title) and `content`. A section
is `<section id="…"><h2>…</h2>…</section>`, directly in `content`; the list of sections at the top is made from them.
What a section holds comes from macros, `{% import "parts.html.j2" as parts %}`:

    parts.table(id, rows, caption, notes={}, filter="")   rows that have the same keys; sortable by mouse and keyboard
    parts.gallery(id, pictures, caption, filter="")       a sequence of `Picture`; each enlarges on click or Enter
    parts.pairs(id, pairs, caption, filter="")            a sequence of `Pair`: two pictures side by side
    parts.figure(svg, caption)                            a figure from `figure_svg`
    parts.facts(mapping)                                  names and values

`id` is unique on the page. `filter` is the label of a text filter with a live count; without one there is none.
Everything is escaped, as class and file names may hold anything; `markupsafe.Markup` alone passes as it is.
"""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.decode import shrink
from pipeline.report.plots import plain_text
from pipeline.report.tables import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_QUALITY = 72


@dataclass(frozen=True)
class Cell:
    """A value of a table that is shown as one thing and sorted as another.

    Attributes:
        sort: A number, or text; None comes last in either direction.
        tone: "good", "bad" or "": how the text is coloured.
    """

    text: str
    sort: float | str | None
    tone: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture of a gallery.

    Attributes:
        source: From `data_uri`; None where the file is missing or cannot be read, which the page then says.
        name: The id of the picture's row.
        lines: What stands below it, the most important first.
    """

    source: str | None
    name: str
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Pair:
    """Two pictures that belong together, and what is to be said of both; before them, if any, what both are made of."""

    first: Picture
    second: Picture
    lines: Sequence[str] = ()
    before: Picture | None = None


def render_page(template: str, *, title: str, **context: Any) -> str:
    """A whole page as text.

    Args:
        template: A file in `templates/`; a name it uses that is not in `context` is an error.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": _cell, "kinds": _kinds}
    page = environment.get_template(template).render(title=title, **context)
    return printable(page)


def data_uri(picture: NDArray[np.uint8], *, side: int = 160) -> str:
    """A picture as a data URI (WebP), its longer side at most `side` pixels.

    Args:
        picture: uint8 of shape (height, width, 3), RGB.
    """
    file = io.BytesIO()
    Image.fromarray(shrink(picture, side)).save(file, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def how_alike(kind: str, distance: int, correlation: float) -> str:
    """Two pictures that are one, in words; see `data.duplicates.Duplicate`."""
    near = f"near: {distance} of 64 bits differ, correlation {correlation:.4f}"
    return "identical files" if kind == "identical" else near


def figure_svg(figure: "Figure", *, name: str, label: str) -> Markup:
    """A matplotlib figure as inline SVG, drawn for a white ground; the page turns its lightness round in the dark.

    Args:
        name: Unique on the page; the names inside the SVG begin with it.
        label: What it shows, for those who do not see it.
    """
    import matplotlib

    text = io.StringIO()
    # Text stays text, in the page's own fonts.
    with plain_text(figure), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawing)
    drawing = re.sub(r'^<svg([^>]*?) width="([\d.]+)pt"', r'<svg\1 width="\2"', drawing)
    drawing = re.sub(r'^<svg([^>]*?) height="[\d.]+pt"', r"<svg\1", drawing)
    return Markup(drawing.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(label), 1))


def _cell(value: Any) -> Cell:
    """Any value as a table shows it: numbers to four digits, a blank for None."""
    if isinstance(value, Cell):
        return value
    if isinstance(value, bool):
        return Cell("yes" if value else "no", float(value))
    if value is None:
        return Cell("", None)
    if isinstance(value, int | np.integer):
        return Cell(f"{value:,}", int(value))
    if isinstance(value, float | np.floating):
        return Cell(f"{value:.4f}", float(value)) if np.isfinite(value) else Cell("", None)
    return Cell(value if isinstance(value, str) else str(value), str(value))


def _kinds(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """By column: "number" where no value of it is text, which is how it is sorted and aligned."""
    sorts = {column: [_cell(row[column]).sort for row in rows] for column in rows[0]}
    return {column: "text" if any(isinstance(sort, str) for sort in of) else "number" for column, of in sorts.items()}
