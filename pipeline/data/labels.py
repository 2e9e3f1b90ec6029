"""Labels in a person's order; labels that are probably one label written in two ways."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations

_ALIKE = 0.85  # of difflib's ratio: "club" and "clubs" have 0.89, "king" and "ring" 0.75
_FEWEST_LETTERS = 4
_MOST_COMPARED = 1_000  # of labels that differ in one word: beyond that names are data, such as a name a person


@dataclass(frozen=True)
class Variant:
    """Two labels that look like one.

    Attributes:
        label: The one with more rows.
        rows: How many rows have it.
        why: What the difference is.
    """

    label: str
    rows: int
    variant: str
    variant_rows: int
    why: str


def natural(label: str) -> list[str | int]:
    """The key of a person's order: c2 before c10, capital letters as small ones.

    It is for showing labels; `class_names` gives them the order in which they are counted.
    """
    parts = re.split(r"(\d+)", label.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def label_variants(labels: Iterable[str]) -> list[Variant]:
    """Pairs of labels that differ in case, spaces, underscores or Unicode form, or in one letter or so of one word.

    Numbers are compared as numbers: "01" and "1" are variants, "10" and "1" or "type 1" and "type 2" are not.
    """
    counts = Counter(labels)
    found: dict[tuple[str, str], str] = {}
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts):
        spellings[_plain(label).replace(" ", "")].append(label)
    for same in spellings.values():
        for one, other in combinations(same, 2):
            found[one, other] = "case, spaces, signs or zeros"
    for one, other, words in _differing_words(sorted(counts)):
        found.setdefault((one, other), words)
    variants = []
    for pair, why in sorted(found.items()):
        label, variant = sorted(pair, key=lambda name: (-counts[name], name))
        variants.append(Variant(label, counts[label], variant, counts[variant], why))
    return variants


def _plain(label: str) -> str:
    """Lower case, words separated by one space, numbers without leading zeros."""
    text = unicodedata.normalize("NFKC", label).casefold().strip()
    if re.fullmatch(r"[-+]?\d+(\.\d+)?", text):
        return f"{float(text):g}" if len(text) < 16 else text
    text = " ".join(re.split(r"[\s_\-]+", text))
    # A mark keeps the numbers apart when the spaces go: "1 0" is not "10".
    return re.sub(r"\d+", lambda number: f"#{number[0].lstrip('0') or '0'}#", text)


def _differing_words(labels: list[str]) -> Iterator[tuple[str, str, str]]:
    """Pairs of labels with the same words but one, and those two alike."""
    by_rest: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for label in labels:
        words = _plain(label).split()
        for place, word in enumerate(words):
            if len(word) >= _FEWEST_LETTERS and word.isalpha():
                by_rest[(*words[:place], "", *words[place + 1 :])].append((word, label))
    for entries in by_rest.values():
        if len(entries) > _MOST_COMPARED:
            continue
        for (word, label), (other_word, other) in combinations(entries, 2):
            if word != other_word and _alike(word, other_word):
                yield label, other, f"{word} / {other_word}"


def _alike(one: str, other: str) -> bool:
    if abs(len(one) - len(other)) > 2:
        return False
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return matcher.quick_ratio() >= _ALIKE and matcher.ratio() >= _ALIKE
