"""The plan of a training: how batches are timed, how times are added up, and that nothing is left behind."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.data.pictures import MemoryPictures
from pipeline.errors import DataError
from pipeline.predictions.metrics import METRICS
from pipeline.report.plan import plan_rows, plan_text
from pipeline.training import rates
from pipeline.training.fold import Machine
from pipeline.training.memory import peak_memory, reset_peak_memory
from pipeline.training.plan import StageProbe, plan_training, reckon
from pipeline.training.rates import Clock, prediction_rate
from pipeline.training.validation import HeldOut
from tests.training.conftest import Run, recipe_of, stage


def probe_of(**changes: Any) -> StageProbe:
    found: dict[str, Any] = {
        "name": "one",
        "size": (32, 32),
        "blocks": 4,
        "unfrozen": 4,
        "parameters": 100,
        "trainable_parameters": 60,
        "flops": 5_000_000,
        "trained": 95,
        "watched": 20,
        "held_out": 0,
        "decode_seconds": 12.0,
        "feature_seconds": 0.0,
        "feature_rate": None,
        "input_rate": 100.0,
        "train_rate": 10.0,
        "predict_rate": 40.0,
        "setup_seconds": 3.0,
        "predict_setup_seconds": 1.0,
        "save_seconds": 0.5,
        "peak_bytes": 2 * 10**9,
        "device_bytes": None,
    }
    return StageProbe(**{**found, **changes})


def planned(*, session_hours: float, folds: int = 5, **changes: Any) -> dict[str, Any]:
    recipe = recipe_of(
        stage("one", epochs=2, batch_size=10), stage("two", epochs=4, batch_size=10), tta={"views": ["flip"]}
    )
    probes = [probe_of(**changes), probe_of(name="two", held_out=40, decode_seconds=6.0)]
    return reckon(
        *(recipe, probes),
        folds=folds,
        start_seconds=10.0,
        held_out=20,
        test=60,
        test_decode_seconds=3.0,
        session_hours=session_hours,
    )


def test_the_sums_by_hand() -> None:
    plan = planned(session_hours=12)
    # An epoch: 10 batches of 10 at 10/s, 20 rows at 40/s, and the weights.
    assert [one["epoch_seconds"] for one in plan["stages"]] == [11.0, 11.0]
    assert [one["seconds"] for one in plan["stages"]] == [4 + 22, 4 + 44 + 1]
    assert plan["final_seconds"] == 1 + (20 + 60) * 2 / 40
    assert plan["fold_seconds"] == 10 + 26 + 49 + 5
    assert plan["decode_seconds"] == 12 + 6 + 3
    assert plan["total_seconds"] == 21 + 5 * 90
    text = plan_text(plan)
    assert "fits into a session of 12 h (95 % of it: there the kit's kernel stops)" in text
    assert "5 folds: about 8 min\n" in text
    assert "21 s (training pictures now lie decoded in runs/)" in text


def test_pictures_that_are_not_kept_are_decoded_in_every_fold() -> None:
    plan = planned(session_hours=12, kept=False)
    assert [one["seconds"] for one in plan["stages"]] == [4 + 22 + 12, 4 + 44 + 1]
    assert plan["decode_seconds"] == 6 + 3
    assert plan["total_seconds"] == 9 + 5 * (90 + 12)
    text = plan_text(plan)
    assert "no room to keep the pictures of stage one: they are decoded in every fold or epoch anew" in text
    assert "now lie decoded" not in text


def test_slow_stages_do_not_have_a_speed_of_zero() -> None:
    text = plan_text(planned(session_hours=12, input_rate=31.4, train_rate=0.314, predict_rate=0.96, flops=4.2e6))
    assert text.splitlines()[2].split()[5:9] == ["4.2", "31", "0.31", "0.96"]


@pytest.mark.parametrize(
    ("seconds", "folds", "stages", "said"),
    [
        (21 + 5 * 90, 5, 2, "fits into"),
        (21 + 5 * 90 - 1, 4, 2, "holds 4 of 5 folds: 2 sessions"),
        (21 + 2 * 90, 2, 2, "holds 2 of 5 folds: 3 sessions"),
        (21 + 89, 0, 2, "no fold whole, but 2 of its 2 stages"),
        (21 + 10 + 26, 0, 1, "no fold whole, but 1 of its 2 stages"),
        (21 + 10 + 25, 0, 0, "not even the first stage"),
    ],
)
def test_what_a_session_holds(seconds: float, folds: int, stages: int, said: str) -> None:
    session = max((seconds + 1e-6) / 0.95, seconds + 1e-6 + 15)
    plan = planned(session_hours=session / 3600)
    assert (plan["folds_a_session"], plan["stages_a_session"]) == (folds, stages)
    assert said in plan_text(plan)


@pytest.mark.parametrize(
    ("train", "slower"), [(95.0, "input"), (80.0, "input"), (70.0, "both"), (50.0, "network"), (5.0, "network")]
)
def test_the_bottleneck(train: float, slower: str) -> None:
    assert probe_of(train_rate=train).bottleneck == slower


def ticking(clock_times: Iterator[float], **settings: int) -> tuple[Clock, int]:
    clock = Clock(now=lambda: next(clock_times), **settings)
    count = 1
    while not clock.tick():
        count += 1
    return clock, count


def test_batches_that_were_ready_do_not_count() -> None:
    """Ten at once after five seconds, then one each half second."""
    times = iter([0.0] + [5.0 + 0.001 * n for n in range(10)] + [5.009 + 0.5 * n for n in range(1, 100)])
    clock, _ = ticking(times, batch_size=16, workers=2)
    assert clock.first == 5.0
    assert clock.rate == pytest.approx(32.0)


def test_slow_batches_end_the_measurement_soon() -> None:
    clock, count = ticking(iter(float(10 * n) for n in range(100)), batch_size=8, workers=2)
    assert clock.rate == pytest.approx(0.8)
    assert count <= 5


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"_SETTLING": 0.05, "_MEASURING": 0.1, "_PATIENCE": 0.3}.items():
        monkeypatch.setattr(rates, name, seconds)


def here(work: Callable[[Any], Any], argument: Any, *, what: str) -> Any:
    return work(argument)


def test_a_plan_of_a_real_recipe_leaves_nothing_but_decoded_pictures(begin: Callable[..., Run], hurried: None) -> None:
    run = begin(
        stage("head", epochs=3, unfreeze=0, batch_norm="frozen", early_stopping={"patience": 1}), stage("all", ema=0.9)
    )
    options: dict[str, Any] = {"experiment": run.experiment, "workspace": run.workspace, "session_hours": 1.0}
    plan = plan_training(run.recipe, run.competition, machine=Machine(1), run=here, **options)
    head, whole = plan["stages"]
    assert (head["unfrozen"], whole["unfrozen"], whole["blocks"]) == (0, 4, 4)
    assert head["trainable_parameters"] == 128 * 3 + 3
    assert whole["parameters"] == head["parameters"] == 98_160 + 128 * 3 + 3
    assert head["size"] == (32, 32)
    assert min(one[key] for one in plan["stages"] for key in ("input_rate", "train_rate", "predict_rate")) > 0
    assert (head["trained"], head["watched"], plan["folds"]) == (12, 12, 2)
    assert plan["early_stopping"]
    assert "less where stages stop early" in plan_text(plan)
    assert [row["stage"] for row in plan_rows(plan)] == ["head", "all"]
    assert not run.oof.exists()
    assert [path.name for path in (run.workspace.root / "runs" / "tiny").iterdir()] == ["_decoded"]
    with pytest.raises(DataError, match="no fold 7"):
        plan_training(run.recipe, run.competition, run=here, folds=[7], **options)


def test_where_there_is_no_room_for_decoded_pictures_the_plan_says_so(begin: Callable[..., Run], hurried: None) -> None:
    run = begin(stage("one"))
    options: dict[str, Any] = {"experiment": run.experiment, "workspace": run.workspace, "session_hours": 1.0}
    plan = plan_training(run.recipe, run.competition, machine=Machine(0, cache_gb=0.0), run=here, **options)
    assert (plan["stages"][0]["kept"], plan["decode_seconds"]) == (False, 0)
    assert "now lie decoded" not in plan_text(plan)
    kept = plan_training(run.recipe, run.competition, machine=Machine(0), run=here, **options)
    again = plan_training(run.recipe, run.competition, machine=Machine(0), run=here, **options)
    assert kept["stages"][0]["kept"]
    assert "now lie decoded" in plan_text(kept)
    # The training pictures are there by now, the test pictures are not: they are timed by themselves.
    assert again["decode_seconds"] > again["stages"][0]["decode_seconds"]


@pytest.mark.parametrize(
    ("count", "steps", "rate"),
    [
        (400, [4, 4, 42], 168 / 5.2),  # what 15 s are enough for, by the second
        (24, [4, 4, 6, 6], 24 / 1.6),  # again and again, until 2 s are over
        (16, [4, 4, 4], 16 / 1.4),
    ],
)
def test_prediction_is_timed_by_many_rows(
    count: int, steps: list[int], rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prediction takes 1 s and 0.1 s a batch, the first of all 5 s more, which are no part of the speed."""
    seconds, steps_of = [0.0], []

    def predict(held_out: HeldOut, network: Any) -> None:
        steps_of.append(-(-len(held_out.rows) // held_out.batch_size))
        seconds[0] += 1 + 0.1 * steps_of[-1] + (5 if len(steps_of) == 1 else 0)

    monkeypatch.setattr(HeldOut, "predict", predict)
    monkeypatch.setattr(rates, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))
    pictures = MemoryPictures(np.zeros((400, 8, 8, 3), np.uint8))
    watched = HeldOut(pictures, np.arange(count), np.zeros(count, np.int64), 4, METRICS["accuracy"])
    first, found = prediction_rate(None, watched)
    assert steps_of == steps
    assert found == pytest.approx(rate)
    assert first == pytest.approx(6.4 - 16 / rate)


MB = 10**6
linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak is begun anew by /proc")


@linux
def test_peak_memory_holds_what_was_taken_since_it_was_begun_anew() -> None:
    reset_peak_memory()
    before = peak_memory()
    taken = bytearray(300 * MB)
    taken[::4096] = b"x" * len(taken[::4096])
    assert peak_memory() > before + 250 * MB
    del taken
    assert peak_memory() > before + 250 * MB
    reset_peak_memory()
    assert peak_memory() < before + 100 * MB


TAKING = "import sys; taken = bytearray(b'x') * 300_000_000; del taken; print(flush=True); sys.stdin.read()"


@linux
def test_the_peak_of_other_processes_counts_until_it_is_begun_anew() -> None:
    with subprocess.Popen([sys.executable, "-c", TAKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin
        assert child.stdout
        child.stdout.readline()
        assert peak_memory([child.pid]) > peak_memory() + 250 * MB
        reset_peak_memory([child.pid])
        assert peak_memory([child.pid]) < peak_memory() + 100 * MB
        child.stdin.close()
