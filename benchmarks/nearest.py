"""How far do the pictures alone go? Each held-out picture gets the label of the training picture that correlates most.

python benchmarks/nearest.py cards            in a workspace, with its competition described
"""

import argparse
from pathlib import Path

import numpy as np

from pipeline.competition import load_competition
from pipeline.data.competition_data import load_data
from pipeline.data.decode import decode, resize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("competition")
    parser.add_argument("--side", type=int, default=32, help="pictures are shrunk to squares of so many pixels")
    given = parser.parse_args()
    data = load_data(load_competition(given.competition, root=Path(".")))
    size = (given.side, given.side)
    pictures = np.stack([resize(decode(Path(path)), size).ravel() for path in data.train["path"]]).astype(np.float32)
    pictures -= pictures.mean(axis=1, keepdims=True)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    right = []
    for fold in data.folds.numbers:
        known, asked = data.rows_without(fold), data.rows_of(fold)
        nearest = (pictures[asked] @ pictures[known].T).argmax(axis=1)
        right.append(data.labels[known][nearest] == data.labels[asked])
    score = np.concatenate(right)
    print(
        f"nearest picture: accuracy {score.mean():.4f} ± {score.std() / np.sqrt(len(score)):.4f} on {len(score)} rows"
    )


if __name__ == "__main__":
    main()
