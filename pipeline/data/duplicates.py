"""Near duplicates: pictures that are one picture, re-encoded, resized, slightly cropped or brightened.

Perceptual hashes propose pairs, cheaply enough for all pairs of 100,000 pictures; a look at small copies of both,
laid on each other, confirms them. docs/decisions/0005-near-duplicates.md has the measurements behind the numbers.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.artifacts import read_json, write_json
from pipeline.competition import Competition
from pipeline.data.decode import POLICY
from pipeline.data.facts import SMALL, Facts, kept_facts, read_pictures
from pipeline.data.index import train_index
from pipeline.errors import counted
from pipeline.progress import Progress

DISTANCE = 12  # bits of 64 in which the hashes of a candidate pair may differ
LEAST_LIKENESS = 0.75  # correlation of 16×16 copies; below it laying one on the other is not tried
LEAST_CORRELATION = 0.98
LARGEST_DIFFERENCE = 0.4  # of the worst of 8×8 blocks, in standard deviations of the picture
_FLAT = 2.0  # standard deviation in grey levels below which a picture has no content to compare
_LEAST_OVERLAP = 0.7
_CHUNK = 2**22  # pairs of hashes compared at once: 64 MB


@dataclass(frozen=True)
class Duplicate:
    """Two pictures that are one.

    Attributes:
        kind: Whether the files are identical, or only near.
        distance: Bits of 64 in which their perceptual hashes differ.
        correlation: Of their small copies, laid on each other; 1 is identical.
    """

    id_a: str
    id_b: str
    kind: Literal["identical", "near"]
    distance: int
    correlation: float


def find_duplicates(ids: Sequence[str], paths: Sequence[str], facts: Facts) -> list[Duplicate]:
    """The pairs that are one picture; `id_a` stands before `id_b` in `ids`.

    Of n identical files these are n - 1 pairs, the first with each other one, and the first alone is compared with
    other contents: copies of copies say nothing new.

    Args:
        paths: Of the pictures of these ids, all of them in `facts`.
    """
    digests = facts.digests
    first: dict[str, int] = {}
    identical = []
    for position, path in enumerate(paths):
        original = first.setdefault(digests[path], position)
        if original != position:
            identical.append(Duplicate(ids[original], ids[position], "identical", 0, 1.0))
    single = list(first.values())
    rows = facts.table.index.get_indexer(pd.Index([paths[position] for position in single]))
    near = near_duplicates(
        [ids[position] for position in single],
        facts.table["phash"].to_numpy(),
        facts.small_copies,
        rows=rows.astype(np.int64),
    )
    return [*identical, *near]


def training_duplicates(competition: Competition) -> list[Duplicate]:
    """Duplicates among the training pictures, by id. Reads every one of them, unless what was found is kept.

    Raises:
        DataError: As `train_index` does, or a picture cannot be read.
    """
    index = train_index(competition)
    known = _known(competition, index)
    if known is not None:
        return known
    facts = read_pictures(index["path"], keep_in=kept_facts(competition), write=False)
    found = find_duplicates(list(index["id"]), list(index["path"]), facts.require_all())
    keep_duplicates(competition, index, found)
    return found


def divided_pairs(competition: Competition, index: pd.DataFrame, folds: Mapping[str, int]) -> int:
    """How many pairs of duplicates, of those found and kept, lie in different folds; reads no picture.

    Args:
        index: All training rows: columns id and path.
        folds: By id.
    """
    known = _known(competition, index) or ()
    return sum(folds[pair.id_a] != folds[pair.id_b] for pair in known)


def divided_note(pairs: int, competition: Competition) -> str:
    """What to say where pairs of duplicates lie in different folds."""
    remedy = f"`kit explore {competition.slug} --write-groups` keeps them together in folds made anew"
    if competition.train.split or competition.train.held_out_pictures:  # there groups have no effect
        remedy = f"leave one of each out by rows in {competition.quarantine_file}"
    elif competition.groups_file.is_file():  # written after these folds, else they would be together
        remedy = f"remove {competition.folds_file}, then `kit folds {competition.slug}` makes them by the groups"
    lie = counted(pairs, "pair of duplicates lies", "pairs of duplicates lie")
    return f"{lie} in different folds, which flatters the score: {remedy}"


def _known(competition: Competition, index: pd.DataFrame) -> list[Duplicate] | None:
    """What was found among these pictures and kept; None where it is of others, or nothing is kept."""
    file = _kept(competition)
    if not file.is_file():
        return None
    kept = read_json(file)
    return [Duplicate(**pair) for pair in kept["pairs"]] if kept["sha256"] == _sha256(index) else None


def keep_duplicates(competition: Competition, index: pd.DataFrame, found: Sequence[Duplicate]) -> None:
    """Write what was found among the training pictures, for `training_duplicates`.

    Args:
        index: All training rows: columns id and path.
    """
    write_json(_kept(competition), {"sha256": _sha256(index), "pairs": [asdict(pair) for pair in found]})


def _kept(competition: Competition) -> Path:
    return competition.folder / "explore" / "duplicates.json"


def _sha256(index: pd.DataFrame) -> str:
    """Hash of ids and file sizes."""
    digest = hashlib.sha256(f"{POLICY}\n".encode())
    for row in index.itertuples():
        digest.update(f"{row.id}\n{Path(str(row.path)).stat().st_size}\n".encode())
    return digest.hexdigest()


def near_duplicates(
    ids: Sequence[str],
    hashes: NDArray[np.uint64],
    small_copies: NDArray[np.uint8],
    *,
    rows: NDArray[np.int64],
) -> list[Duplicate]:
    """The pairs that are near duplicates; `id_a` stands before `id_b` in `ids`, and the pairs are in that order.

    Mirrored copies are not found.

    Args:
        hashes: `perceptual_hash` of each picture, shape (n,).
        small_copies: `small_copy` of each, uint8 of shape (n, 64, 64, 3); may be a memory map.
        rows: Which of these the ids are, shape (len(ids),).
    """
    candidates = list(_candidates(hashes, small_copies, rows))

    def confirm(candidate: tuple[int, int, int]) -> Duplicate | None:
        a, b, bits = candidate
        correlation = same_picture(small_copies[rows[a]], small_copies[rows[b]])
        return None if correlation is None else Duplicate(ids[a], ids[b], "near", bits, correlation)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        looked_at = Progress(
            pool.map(confirm, candidates, chunksize=32),
            total=len(candidates),
            desc="looking at pairs",
            unit="pair",
            leave=False,
            disable=None,
        )
        return [pair for pair in looked_at if pair is not None]


def candidate_pairs(hashes: NDArray[np.uint64], distance: int) -> Iterator[NDArray[np.int64]]:
    """Positions a < b of the pairs whose hashes differ in at most `distance` bits, in chunks of shape (k, 2).

    All pairs are compared, a block at a time, so that memory does not grow with their number.
    """
    count = len(hashes)
    rows = max(1, _CHUNK // max(1, count))
    for start in range(0, count, rows):
        block = hashes[start : start + rows, None] ^ hashes[None, start:]
        a, b = np.nonzero(np.bitwise_count(block) <= distance)
        above = a < b
        yield np.stack([a[above], b[above]], axis=1) + start


def same_picture(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float | None:
    """The correlation of two small copies if they show one picture, else None.

    They are compared as they are, then with `b` moved and stretched onto `a` by the enhanced correlation coefficient
    (Evangelidis and Psarakis, 2008, in OpenCV), which finds cropped copies. Brightness and contrast do not count;
    what differs in one place alone does, such as a card's number.
    """
    import cv2  # not above, as SciPy below: what only counts the pairs that are kept imports this module, too

    if min(float(a.std()), float(b.std())) < _FLAT:
        close = max(float(a.std()), float(b.std())) < _FLAT and abs(a.mean((0, 1)) - b.mean((0, 1))).max() < _FLAT
        return 1.0 if close else None
    everywhere = np.ones(a.shape[:2], dtype=bool)
    correlation = _agreement(a, b, everywhere)
    if correlation is not None:
        return correlation
    start = np.eye(2, 3, dtype=np.float32)
    enough = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-4)
    grey_a, grey_b = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (a, b))
    try:
        _, warp = cv2.findTransformECC(grey_a, grey_b, start, cv2.MOTION_AFFINE, enough, None, 5)  # type: ignore[call-overload]
    except cv2.error:  # it does not converge
        return None
    size, back = (SMALL, SMALL), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    covered = cv2.warpAffine(everywhere.astype(np.uint8), warp, size, flags=back) > 0
    if covered.mean() < _LEAST_OVERLAP:
        return None
    moved = cv2.warpAffine(b, warp, size, flags=back, borderMode=cv2.BORDER_REPLICATE)
    return _agreement(a, np.asarray(moved, dtype=np.uint8), covered)


def components(count: int, edges: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """The number of the connected component of each of `count` nodes, shape (count,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    listed = np.array(list(edges), dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(listed), dtype=bool), (listed[:, 0], listed[:, 1])), shape=(count, count))
    _, numbers = connected_components(graph, directed=False)
    return np.asarray(numbers, dtype=np.int64)


def _candidates(
    hashes: NDArray[np.uint64], small_copies: NDArray[np.uint8], rows: NDArray[np.int64]
) -> Iterator[tuple[int, int, int]]:
    """Pairs of like hashes whose 16×16 copies are alike too: position in `rows`, another position, bits."""
    for pairs in candidate_pairs(hashes[rows], DISTANCE):
        for part in np.array_split(pairs, len(pairs) // 4096 + 1):
            a, b = (_standardised(_blocks(small_copies[rows[side]].astype(np.float32), 16)) for side in part.T)
            likeness = (a * b).mean(axis=(1, 2, 3))
            flat = (a.std(axis=(1, 2, 3)) < 0.5) | (b.std(axis=(1, 2, 3)) < 0.5)
            for one, other in part[(likeness >= LEAST_LIKENESS) | flat]:
                yield int(one), int(other), int(np.bitwise_count(hashes[rows[one]] ^ hashes[rows[other]]))


def _agreement(a: NDArray[np.uint8], b: NDArray[np.uint8], where: NDArray[np.bool_]) -> float | None:
    """The correlation inside `where`, unless it is too low there or the pictures differ too much in one block."""
    x, y = (_standardised_where(picture, where) for picture in (a, b))
    correlation = float((x * y)[where].sum() / np.sqrt((x[where] ** 2).sum() * (y[where] ** 2).sum()))
    worst = float(np.sqrt(_blocks((x - y)[None] ** 2, 8).mean(axis=3).max()))
    return correlation if correlation >= LEAST_CORRELATION and worst <= LARGEST_DIFFERENCE else None


def _standardised_where(picture: NDArray[np.uint8], where: NDArray[np.bool_]) -> NDArray[np.float32]:
    import cv2

    values = picture.astype(np.float32)
    inside = values[where]
    values = (values - inside.mean()) / max(float(inside.std()), 1.0)
    values[~where] = 0
    # Blurred a little: an edge that lies half a pixel aside is no difference.
    return np.asarray(cv2.blur(values, (3, 3)), dtype=np.float32)


def _standardised(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = pictures - pictures.mean(axis=(1, 2, 3), keepdims=True)
    return np.asarray(centred / np.maximum(centred.std(axis=(1, 2, 3), keepdims=True), 1.0), dtype=np.float32)


def _blocks(pictures: NDArray[np.float32], across: int) -> NDArray[np.float32]:
    """Means of `across` × `across` blocks: (n, 64, 64, 3) to (n, across, across, 3)."""
    step = SMALL // across
    return np.asarray(
        pictures.reshape(len(pictures), across, step, across, step, 3).mean(axis=(2, 4)), dtype=np.float32
    )
