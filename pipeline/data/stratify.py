"""Rows with several labels divided into parts in which each label is as frequent as in the whole.

Iterative stratification (Sechidis, Tsoumakas & Vlahavas, 2011). The packages that have it know no groups.
"""

import numpy as np
from numpy.typing import NDArray


def spread(labels: NDArray[np.int64], groups: NDArray[np.int64], *, count: int, seed: int) -> NDArray[np.int64]:
    """The part of each row, 0 to count − 1: int64 of shape (rows,).

    The rarest label is dealt out first, each group with it to the part that lacks most of that label.

    Args:
        labels: 0 and 1, of shape (rows, classes).
        groups: Numbers from 0 on, of shape (rows,); rows of one group come into one part.
    """
    rng = np.random.default_rng(seed)
    units = int(groups.max()) + 1
    amounts = np.zeros((units, labels.shape[1] + 1))  # of each label in each group, and of rows
    np.add.at(amounts, groups, np.hstack([labels, np.ones((len(labels), 1))]))
    lacking = np.tile(amounts.sum(axis=0) / count, (count, 1))
    part, order = np.full(units, -1), rng.permutation(units)
    left = amounts[:, :-1].sum(axis=0)
    while (left > 0).any():
        label = int(np.where(left > 0, left, np.inf).argmin())
        _deal(order[(amounts[order, label] > 0) & (part[order] < 0)], part, amounts, lacking, label, rng)
        left = amounts[part < 0, :-1].sum(axis=0)
    _deal(order[part[order] < 0], part, amounts, lacking, -1, rng)
    return part[groups]


def _deal(
    units: NDArray[np.int64],
    part: NDArray[np.int64],
    amounts: NDArray[np.float64],
    lacking: NDArray[np.float64],
    label: int,
    rng: np.random.Generator,
) -> None:
    """Give each of the groups a part: the one that lacks most of this label, then of rows, then any of these."""
    for unit in units[np.argsort(-amounts[units, -1], kind="stable")]:  # the largest first: the others fill the gaps
        first = np.flatnonzero(lacking[:, label] == lacking[:, label].max())
        first = first[lacking[first, -1] == lacking[first, -1].max()]
        part[unit] = rng.choice(first)
        lacking[part[unit]] -= amounts[unit]
