"""A competition's own metric: Kaggle's published form, in every form of a submission, and everything that it may do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from pipeline.competition import Competition
from pipeline.data.forms import Form
from pipeline.errors import DataError
from pipeline.predictions import own_metric
from pipeline.predictions.aligned import Aligned
from pipeline.predictions.compare import compare
from pipeline.predictions.floors import floor_scores
from pipeline.predictions.metrics import FEW, METRICS, Metric, metric_of, metric_settings, paired_gain, standard_error
from pipeline.predictions.own_metric import ScoreRaised, metric_by
from tests.predictions.test_scores import Found, several, single

# As published: https://www.kaggle.com/code/metric/..., the types of the columns looked at, the ids deleted in place.
MACRO_AUC = """
import pandas as pd
import pandas.api.types

import kaggle_metric_utilities

import sklearn.metrics


class ParticipantVisibleError(Exception):
    pass


def score(solution: pd.DataFrame, submission: pd.DataFrame, row_id_column_name: str) -> float:
    del solution[row_id_column_name]
    del submission[row_id_column_name]
    for column in submission.columns:
        if not pandas.api.types.is_numeric_dtype(submission[column]):
            raise ParticipantVisibleError(f'{column} is no number')
    assert all(kind == 'int64' for kind in solution.dtypes), solution.dtypes
    known = [column for column in solution.columns if 0 < solution[column].sum() < len(solution)]
    return kaggle_metric_utilities.safe_call_score(
        sklearn.metrics.roc_auc_score, solution[known].values, submission[known].values, average='macro'
    )
"""
ACCURACY = """
def score(solution, submission, row_id_column_name):
    return (solution['label'] == submission['label']).mean()
"""
Score = Callable[[pd.DataFrame, pd.DataFrame, str], float]


def form(kind: str, classes: str = "abcde", **changes: object) -> Form:
    columns = tuple(sorted(classes, reverse=True)) if kind == "probabilities" else ("label",)
    return Form(**{"kind": kind, "key": "id", "columns": columns, "classes": tuple(classes), **changes})


def metric(folder: Path, text: str, given: Form | None = None) -> Metric:
    """Of a file with this text."""
    (folder / "metric.py").write_text(text, encoding="utf-8")
    return metric_in(folder, given or form("class"))


def metric_in(folder: Path, given: Form | None) -> Metric:
    return metric_of(competition_in(folder), list("abcde"), form=lambda *_: given)


def competition_in(folder: Path) -> Competition:
    train = {"pictures": "p", "table": "t.csv", "id_column": "id", "label_column": "y"}
    settings = {"slug": "x", "metric": "metric.py", "greater_is_better": True, "train": train, "folder": folder}
    return Competition.model_validate(settings)


# --- What `score` is given: here in this process, as every other one costs a second


def calling(score: Score, given: Form, *, greater: bool = True) -> Metric:
    def checked(solution: pd.DataFrame, submission: pd.DataFrame, key: str) -> float:
        assert key == given.key and list(solution) == list(submission) == [key, *given.columns]
        assert list(solution.index) == list(range(len(solution)))
        assert solution[key].is_unique and solution[key].equals(submission[key])
        return score(solution, submission, key)

    return metric_by(checked, given, name="metric.py", greater_is_better=greater)


def accuracy(solution: pd.DataFrame, submission: pd.DataFrame, key: str) -> float:
    return float((solution["label"] == submission["label"]).mean())


def test_classes() -> None:
    own = calling(accuracy, form("class", key="image"))
    labels, found = single()
    assert (own.name, own.greater_is_better, own.needs) == ("metric.py", True, "labels")
    assert own.score(labels, found) == METRICS["accuracy"].score(labels, found)


def test_classes_that_are_numbers_are_numbers_as_in_a_csv() -> None:
    def score(solution: pd.DataFrame, submission: pd.DataFrame, key: str) -> float:
        assert solution["label"].dtype == submission["label"].dtype == "int64"
        return sklearn_metrics.cohen_kappa_score(solution["label"], submission["label"], weights="quadratic")

    labels, found = single()
    expected = METRICS["quadratic_kappa"].score(labels, found)
    assert calling(score, form("class", "01234")).score(labels, found) == pytest.approx(expected)


def test_the_probability_of_the_positive_class() -> None:
    def score(solution: pd.DataFrame, submission: pd.DataFrame, key: str) -> float:
        assert solution["label"].dtype == "int64"
        return sklearn_metrics.average_precision_score(solution["label"], submission["label"])

    own = calling(score, form("probability", "ab", positive="a"))
    labels, found = single(classes=2)
    expected = sklearn_metrics.average_precision_score(labels == 0, found[:, 0])
    assert own.needs == "probabilities"
    assert own.score(labels, found) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("target", "make"), [("single", single), ("multilabel", several)])
def test_a_column_a_class(target: str, make: Callable[..., Found]) -> None:
    def score(solution: pd.DataFrame, submission: pd.DataFrame, key: str) -> float:
        assert list(solution)[1:] == list("edcba") and (solution.dtypes[1:] == "int64").all()
        return sklearn_metrics.roc_auc_score(solution.iloc[:, 1:], submission.iloc[:, 1:])

    labels, found = make()
    own = calling(score, form("probabilities", target=target))
    assert own.score(labels, found) == pytest.approx(METRICS["roc_auc"].score(labels, found), rel=1e-12)


def test_names_ranked() -> None:
    def score(solution: pd.DataFrame, submission: pd.DataFrame, key: str) -> float:
        pairs = [(true, said.split()) for true, said in zip(solution["label"], submission["label"], strict=True)]
        return float(np.mean([1 / (1 + said.index(true)) if true in said else 0 for true, said in pairs]))

    own = calling(score, form("ranked", top=3))
    labels, found = single(decimals=1)
    assert own.needs == "ranking"
    assert own.score(labels, found) == pytest.approx(metric_of({"metric": "map@3", "classes": []}).score(labels, found))


def test_names_of_several_labels() -> None:
    """A row without labels is an empty cell, which is read as a missing one from a CSV."""

    def score(solution: pd.DataFrame, submission: pd.DataFrame, key: str) -> float:
        assert solution["label"].isna().any() and not (solution["label"] == "").any()
        true, said = ([set(cell.split()) for cell in table["label"].fillna("")] for table in (solution, submission))
        return float(np.mean([2 * len(t & s) / (len(t) + len(s)) for t, s in zip(true, said, strict=True)]))

    own = calling(score, form("names", target="multilabel"))
    labels, found = several()
    likeliest = np.eye(5)[found.argmax(axis=1)]  # which is named where nothing is sure enough
    said = np.where((found >= 0.5).any(axis=1, keepdims=True), found, likeliest)
    assert own.score(labels, found) == pytest.approx(METRICS["sample_f1"].score(labels, said))


@pytest.mark.parametrize(("target", "make"), [("single", single), ("multilabel", several)])
def test_a_row_a_picture_and_class(target: str, make: Callable[..., Found]) -> None:
    def score(solution: pd.DataFrame, submission: pd.DataFrame, key: str) -> float:
        assert [one[-2:] for one in solution[key][:6]] == ["_a", "_b", "_c", "_d", "_e", "_a"]
        assert solution["label"].dtype == "int64"
        return float(((solution["label"] - submission["label"]) ** 2).sum() / (len(solution) / 5))

    own = calling(score, form("long", separator="_", target=target), greater=False)
    labels, found = make()
    scale = 5 if target == "multilabel" else 1
    assert own.score(labels, found) == pytest.approx(METRICS["brier"].score(labels, found) * scale, rel=1e-12)
    assert own.gain(0.5, 0.25) == 0.25
    rows = np.random.default_rng(0).integers(0, 300, 300)
    drawn = own.rescorer(labels, found)(np.bincount(rows, minlength=300).astype(float))
    assert drawn == pytest.approx(METRICS["brier"].score(labels[rows], found[rows]) * scale, rel=1e-12)


# --- Its error, and what is built on it


def test_the_standard_error_is_by_few_resamples() -> None:
    calls = []

    def score(solution: pd.DataFrame, submission: pd.DataFrame, key: str) -> float:
        calls.append(len(solution))
        return accuracy(solution, submission, key)

    own, exact = calling(score, form("class")), METRICS["accuracy"]
    labels, before = single()
    after = 0.7 * before + 0.3 * np.eye(5)[labels]
    assert standard_error(own, labels, before) == pytest.approx(standard_error(exact, labels, before), rel=0.4)
    assert calls == [300] * FEW
    gain, error = paired_gain(own, labels, before, after)
    expected = paired_gain(exact, labels, before, after)
    assert gain == pytest.approx(expected[0])
    assert error == pytest.approx(expected[1], rel=0.4)


def test_floors() -> None:
    labels, _ = single()
    own, exact = calling(accuracy, form("class")), METRICS["accuracy"]
    found, expected = (floor_scores(one, labels, 5) for one in (own, exact))
    assert found["majority class"]["score"] == expected["majority class"]["score"]
    spread = expected["random classifier"]["score_se"]
    assert found["random classifier"]["score"] == pytest.approx(0.2, abs=4 * spread / FEW**0.5)
    assert found["random classifier"]["score_se"] == pytest.approx(spread, rel=0.4)


def test_resamples_that_it_refuses_are_left_out() -> None:
    def score_of(least: int) -> Score:
        def score(solution: pd.DataFrame, submission: pd.DataFrame, key: str) -> float:
            if (solution["label"] == "e").sum() < least:
                raise ScoreRaised("too few", expected="", next_step="")
            return accuracy(solution, submission, key)

        return score

    labels, found = single()
    labels = np.where(labels == 4, 0, labels)
    labels[:3] = 4  # about one resample in twenty has none of them
    own, exact = calling(score_of(1), form("class")), METRICS["accuracy"]
    assert np.isnan(own.rescorer(labels, found)(np.where(labels == 4, 0.0, 1.0)))
    assert standard_error(own, labels, found) == pytest.approx(standard_error(exact, labels, found), rel=0.4)
    both = {"one": found, "other": 0.5 * found + 0.5 * single(seed=1)[1]}
    compared = compare(Aligned(own, list("abcde"), [str(n) for n in range(300)], labels, np.arange(300) % 3, both))
    assert FEW / 2 < compared.resamples < FEW
    [difference] = compared.differences.values()
    assert difference.low < difference.gain < difference.high
    with pytest.raises(ScoreRaised, match="too few"):
        standard_error(calling(score_of(4), form("class")), labels, found)


# --- The process


def test_a_published_metric(tmp_path: Path) -> None:
    own = metric(tmp_path, MACRO_AUC, form("probabilities"))
    labels, found = single()
    for _ in range(2):  # it changes its tables in place
        assert own.score(labels, found) == pytest.approx(METRICS["roc_auc"].score(labels, found), rel=1e-12)
    assert own.rescorer(labels, found)(np.ones(300)) == own.score(labels, found)
    assert own.greater_is_better and own.needs == "probabilities"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def scores(): pass", "metric.py has no function score\n"),
        ("score = 3", "has no function score"),
        ("def score(:", "cannot be loaded: SyntaxError: invalid syntax"),
        ("import no_such_package", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_package'"),
        ("import scores, blend", "cannot be loaded: ModuleNotFoundError: No module named 'scores'"),  # the kit's own
        ("raise SystemExit(3)", "cannot be loaded: SystemExit: 3"),
        ("import os; os._exit(1)", "ended the process that it ran in"),
    ],
)
def test_a_file_that_cannot_be_loaded(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        metric(tmp_path, text)
    assert f"{tmp_path / 'metric.py'}" in caught.value.problem and said in str(caught.value)


def test_what_score_does_wrong_is_named_and_the_next_call_goes_on(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("GOOD = 0.25")
    text = """
import os
import sys
import helper
import kaggle_metric_utilities as kaggle

print('loud')

class ParticipantVisibleError(Exception):
    pass

def score(solution, submission, row_id_column_name, scale: float = 2.0):
    print('loud', file=sys.stderr)
    match len(solution):
        case 1:
            return float('nan')
        case 2:
            return None
        case 3:
            return solution
        case 4:
            raise ParticipantVisibleError('Sums of rows are off')
        case 5:
            sys.exit('no')
        case 6:
            os._exit(1)
        case 7:
            kaggle.verify_valid_probabilities(solution[['label']].assign(label=1.5), 'solution')
        case 8:
            kaggle.verify_valid_probabilities(solution[['label']].assign(more=0.5, label=1.0), 'solution')
        case 9:
            kaggle.verify_valid_probabilities(solution[['label']], 'solution')
        case 10:
            kaggle.safe_call_score(lambda solution, submission, at: solution[at], [], [], at=3)
    return helper.GOOD * scale
"""
    own = metric(tmp_path, text)
    wrong = {
        1: "score returned nan, which is no finite number",
        2: "score returned None, which is no finite number",
        3: "score returned ",
        4: "score raised ParticipantVisibleError: Sums of rows are off\n",
        5: "score raised SystemExit: no",
        6: "ended the process that it ran in",
        7: "score raised ParticipantVisibleError: solution holds values outside 0..1",
        8: "score raised ParticipantVisibleError: solution has rows that do not sum to one",
        9: "score raised ParticipantVisibleError: solution holds values that are no numbers",
        10: "score raised IndexError: list index out of range",
    }
    for rows, said in wrong.items():
        with pytest.raises(DataError) as caught:
            own.score(*single(rows))
        assert said in str(caught.value) and str(tmp_path / "metric.py") in caught.value.problem
        if "raised" in said:
            assert "the columns of solution and submission are id, label" in caught.value.next_step
        assert own.score(*single(20)) == 0.5


def test_what_is_printed_goes_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    metric(tmp_path, "import sys\nprint('loud')\nprint('loud', file=sys.stderr)\n" + ACCURACY)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metric.py does not exist"):
        metric_in(tmp_path, form("class"))
    with pytest.raises(DataError, match=r"metric.py does not exist"):
        metric_settings(competition_in(tmp_path))


def test_no_sample_submission_and_no_competition(tmp_path: Path) -> None:
    (tmp_path / "metric.py").write_text(ACCURACY)
    with pytest.raises(DataError, match="x has no sample of one"):
        metric_in(tmp_path, None)
    with pytest.raises(DataError, match=r"there is no metric 'metric\.py'"):
        metric_of({"metric": "metric.py", "classes": ["a"]})


def test_a_changed_file_is_read_anew_and_is_another_metric(tmp_path: Path) -> None:
    hashes = set()
    for value in (1, 2):
        (tmp_path / "metric.py").write_text(f"def score(a, b, c): return {value}")
        os.utime(tmp_path / "metric.py", (value, value))
        assert metric_in(tmp_path, form("class")).score(*single(20)) == value
        said = metric_settings(competition_in(tmp_path))
        assert said["metric"] == "metric.py"
        hashes.add(said["metric_sha256"])
    assert len(hashes) == 2


@pytest.mark.parametrize("text", ["while True: pass", "def score(a, b, c):\n    while True: pass"])
def test_one_that_hangs_is_stopped(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid()))"
    monkeypatch.setattr(own_metric, "LIMIT", 2.0)
    started = time.monotonic()
    with pytest.raises(DataError, match="took more than 2 s and was stopped"):
        metric(tmp_path, f"{pid}\n{text}").score(*single(20))
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_it_runs_in_another_process_that_ends_with_this_one(tmp_path: Path) -> None:
    (tmp_path / "metric.py").write_text("import os\ndef score(a, b, c): return os.getpid()")
    script = f"""
import os
from pathlib import Path
from tests.predictions.test_own_metric import form, metric_in, single
found, again = (metric_in(Path({str(tmp_path)!r}), form('class')).score(*single(2)) for _ in range(2))
assert found == again != os.getpid()
print(int(found), flush=True)
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    status = Path(f"/proc/{int(done.stdout)}/stat")
    for _ in range(200):
        if not status.exists() or status.read_text().split(") ")[1][0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the metric's process outlives the kit's")


def test_greater_is_better_is_said_where_a_file_cannot_say_it(tmp_path: Path) -> None:
    settings = competition_in(tmp_path).model_dump(exclude={"greater_is_better"})
    with pytest.raises(ValueError, match="needs greater_is_better: true or false"):
        Competition.model_validate(settings)
    with pytest.raises(ValueError, match="greater_is_better has no effect on accuracy"):
        Competition.model_validate({**settings, "metric": "accuracy", "greater_is_better": True})
