#!/usr/bin/env bash
# cleanlab 2.9.0 with scikit-learn 1.9.1, NumPy 2.4.6 and pandas 3.1.1 on Python 3.11: where a picture may have several
# labels, a few wrong ones are not found, however plain they are.
#
# Expected: `multilabel_classification.filter.find_label_issues` names a row whose label the predictions contradict with
# 0.9 against 0.1 while all others agree with theirs, as `filter.find_label_issues` does where there is one label a row.
# Seen: of 200 rows with one or two such labels it names none; with five it names these five. Its score of each row
# (`rank.get_label_quality_scores`) puts the wrong ones first in every case: who expects few should look at that order.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    cleanlab==2.9.0 scikit-learn==1.9.1 numpy==2.4.6 pandas==3.1.1
cd "$folder"
cat >seen.py <<'PYTHON'
import numpy as np
from cleanlab.filter import find_label_issues as find_of_one
from cleanlab.multilabel_classification.filter import find_label_issues
from cleanlab.multilabel_classification.rank import get_label_quality_scores

rng = np.random.default_rng(0)
truth = rng.integers(0, 2, (200, 3))
found = np.clip(truth * 0.8 + 0.1 + rng.normal(0, 0.03, truth.shape), 0, 1)
seen = {}
for wrong in ([7], [7, 20], [7, 20, 33, 40, 51]):
    given = truth.copy()
    given[wrong, 1] = 1 - given[wrong, 1]
    lists = [np.flatnonzero(row).tolist() for row in given]
    named = sorted(find_label_issues(lists, found, return_indices_ranked_by="self_confidence", n_jobs=1).tolist())
    least = sorted(np.argsort(get_label_quality_scores(lists, found))[: len(wrong)].tolist())
    print(f"several labels, {len(wrong)} wrong: names {named}, least likely {least}")
    seen[len(wrong)] = (named == wrong, named, least == wrong)
one = rng.integers(0, 3, 200)
sure = np.full((200, 3), 0.05)
sure[np.arange(200), one] = 0.9
one[7] = (one[7] + 1) % 3
alone = find_of_one(one, sure, return_indices_ranked_by="self_confidence", n_jobs=1).tolist()
print(f"one label, 1 wrong: names {alone}")
as_described = (
    alone == [7] and seen[1][1] == [] and seen[2][1] == [] and seen[5][0] and all(first for *_, first in seen.values())
)
print("seen as described" if as_described else "it behaves otherwise now")
raise SystemExit(not as_described)
PYTHON
"$folder/venv/bin/python" seen.py
