#!/usr/bin/env bash
# albumentations 2.0.8 (the last MIT release): a seeded Compose gives every transform the same random numbers.
#
# Expected: Compose([HorizontalFlip(p=0.5), VerticalFlip(p=0.5)], seed=0) flips along one axis alone half of the time.
# Seen: never. Each transform begins with a generator of the same seed, so transforms of one probability are applied
# together or not at all, in every call; without a seed they are independent. Whoever seeds Compose for reproducible runs,
# or calls set_random_seed for each picture, sees two of the four combinations that the list promises.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check albumentations==2.0.8 numpy==2.2.6 opencv-python-headless==4.12.0.88
NO_ALBUMENTATIONS_UPDATE=1 "$folder/venv/bin/python" - <<'PYTHON'
from collections import Counter

import albumentations as A
import numpy as np

picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
views = {"none": picture, "horizontal": picture[:, ::-1], "vertical": picture[::-1], "both": picture[::-1, ::-1]}


def counts(**options):
    compose = A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)], **options)
    found = Counter()
    for _ in range(2000):
        result = compose(image=picture)["image"]
        found[next(name for name, view in views.items() if np.array_equal(result, view))] += 1
    return dict(sorted(found.items()))


print("albumentations", A.__version__)
seeded, free = counts(seed=0), counts()
print("2000 calls, seed=0:", seeded)
print("2000 calls, no seed:", free)
assert set(seeded) == {"none", "both"}, "a seeded Compose now draws its transforms independently"
assert set(free) == set(views)
PYTHON
