"""The plan of a training: how batches are timed, how times are added up, and that nothing is left behind."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.errors import DataError
from pipeline.report.plan import plan_rows, plan_text
from pipeline.training import rates
from pipeline.training.fold import Machine
from pipeline.training.memory import peak_memory
from pipeline.training.plan import StageProbe, plan_training, reckon
from pipeline.training.rates import Clock
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
        recipe, probes, folds=folds, start_seconds=10.0, rows=120, held_out=20, test=60, session_hours=session_hours
    )


def test_the_sums_by_hand() -> None:
    plan = planned(session_hours=12)
    # An epoch: 10 batches of 10 at 10/s, 20 rows at 40/s, and the weights.
    assert [one["epoch_seconds"] for one in plan["stages"]] == [11.0, 11.0]
    assert [one["seconds"] for one in plan["stages"]] == [4 + 22, 4 + 44 + 1]
    assert plan["final_seconds"] == 1 + (20 + 60) * 2 / 40
    assert plan["fold_seconds"] == 10 + 26 + 49 + 5
    assert plan["decode_seconds"] == 12 + 6 + 6 * 60 / 120
    assert plan["total_seconds"] == 21 + 5 * 90
    assert "fits into a session of 12 h" in plan_text(plan)


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
    plan = planned(session_hours=(seconds + 1e-6) / 3600)
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
    assert "at most" in plan_text(plan)
    assert [row["stage"] for row in plan_rows(plan)] == ["head", "all"]
    assert not run.oof.exists()
    assert [path.name for path in (run.workspace.root / "runs" / "tiny").iterdir()] == ["_decoded"]
    with pytest.raises(DataError, match="no fold 7"):
        plan_training(run.recipe, run.competition, run=here, folds=[7], **options)


def test_peak_memory_holds_what_was_taken() -> None:
    before = peak_memory()
    taken = bytearray(300_000_000)
    taken[::4096] = b"x" * len(taken[::4096])
    assert peak_memory() >= before
    assert peak_memory() > 300_000_000
