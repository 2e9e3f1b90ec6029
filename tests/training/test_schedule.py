"""Learning rates at the steps where they are known by hand, and the optimizers' settings."""

import math
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.recipe import Stage
from pipeline.training.schedule import ema_callback, learning_rate, make_optimizer, plateau_callback

PEAK = 0.02


def stage(**settings: Any) -> Stage:
    content = {"name": "s", "unfreeze": 1, "epochs": 4, "learning_rate": PEAK, **settings}
    return Stage.model_validate(content)


def rates(settings: Any, *steps: int) -> list[float]:
    schedule = learning_rate(stage(schedule=settings), steps_per_epoch=5)
    return [float(schedule(step)) for step in steps]


def test_constant() -> None:
    assert learning_rate(stage(), steps_per_epoch=5) == PEAK


def test_cosine_falls_from_the_peak_to_zero() -> None:
    assert rates("cosine", 0, 5, 10, 20) == pytest.approx(
        [PEAK, PEAK * (1 + math.cos(math.pi / 4)) / 2, PEAK / 2, 0], abs=1e-8
    )


def test_cosine_with_warm_up_climbs_first() -> None:
    found = rates({"kind": "cosine", "warmup_epochs": 1}, 0, 2, 5, 12, 20)
    middle = PEAK * (1 + math.cos(math.pi * (12 - 5) / 15)) / 2
    assert found == pytest.approx([0, PEAK * 2 / 5, PEAK, middle, 0], abs=1e-8)


def test_warm_up_may_be_part_of_an_epoch() -> None:
    found = rates({"kind": "cosine", "warmup_epochs": 0.4}, 0, 1, 2, 20)
    assert found == pytest.approx([0, PEAK / 2, PEAK, 0], abs=1e-8)


def test_exponential_falls_continuously() -> None:
    found = rates({"kind": "exponential", "decay_rate": 0.5, "decay_steps": 10}, 0, 5, 10, 20)
    assert found == pytest.approx([PEAK, PEAK * math.sqrt(0.5), PEAK / 2, PEAK / 4])


def monitored(settings: Any, values: list[float], *, mode: str) -> list[float]:
    """The rate after each epoch of a real model whose monitored value takes these values."""
    [callback] = plateau_callback(stage(schedule=settings), monitor="val_x", mode=mode)
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    callback.set_model(model)
    callback.on_train_begin()
    found = []
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {"val_x": value})
        found.append(float(np.asarray(model.optimizer.learning_rate.numpy())))
    return found


def test_plateau_lowers_the_rate_after_its_patience() -> None:
    settings = {"kind": "plateau", "factor": 0.5, "patience": 2}
    losses = [3.0, 2.0, 2.0, 2.0, 1.0, 1.5, 1.5]
    assert monitored(settings, losses, mode="min") == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5, 0.25])
    assert monitored(settings, [-loss for loss in losses], mode="max") == pytest.approx([1, 1, 1, 0.5, 0.5, 0.5, 0.25])


@pytest.mark.parametrize("kind", ["constant", "cosine", "exponential"])
def test_only_a_plateau_needs_a_callback(kind: str) -> None:
    assert plateau_callback(stage(schedule=kind), monitor="val_loss", mode="min") == []


@pytest.mark.parametrize(
    ("settings", "kind", "option", "value"),
    [
        ("adam", keras.optimizers.Adam, "weight_decay", None),
        ({"kind": "adamw", "weight_decay": 0.03}, keras.optimizers.AdamW, "weight_decay", 0.03),
        ({"kind": "sgd", "momentum": 0.7}, keras.optimizers.SGD, "momentum", 0.7),
    ],
)
def test_optimizer_has_its_settings_and_the_stages_rate(settings: Any, kind: type, option: str, value: object) -> None:
    optimizer = make_optimizer(stage(optimizer=settings), steps_per_epoch=5, precision="float32", scales={})
    assert next(one for one in type(optimizer).__mro__ if one.__module__.startswith("keras.")) is kind
    assert getattr(optimizer, option) == value
    assert float(optimizer.learning_rate) == pytest.approx(PEAK)


def test_the_loss_is_scaled_with_float16_alone() -> None:
    for precision in ("float32", "mixed_bfloat16", "mixed_float16"):
        optimizer = make_optimizer(stage(optimizer="sgd"), steps_per_epoch=5, precision=precision, scales={})
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        assert scaled == (precision == "mixed_float16")


def test_each_stage_has_an_optimizer_of_its_own() -> None:
    one, other = (make_optimizer(stage(), steps_per_epoch=5, precision="float32", scales={}) for _ in range(2))
    assert one is not other


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize(("clip", "expected"), [(None, [-3, -4]), (10, [-3, -4]), (1, [-0.6, -0.8])])
def test_gradients_are_clipped_together(precision: str, clip: float | None, expected: list[float]) -> None:
    """Two variables with the gradients 3 and 4: their norm is 5."""
    settings = stage(optimizer={"kind": "sgd", "momentum": 0}, learning_rate=1.0, clip_norm=clip)
    optimizer = make_optimizer(settings, steps_per_epoch=5, precision=precision, scales={})
    variables = [keras.Variable(0.0), keras.Variable(0.0)]
    optimizer.build(variables)
    scale = float(optimizer.scale_loss(1.0))
    assert (scale > 1) == (precision == "mixed_float16")
    optimizer.apply([keras.ops.convert_to_tensor(scale * gradient) for gradient in (3.0, 4.0)], variables)
    assert [float(variable.numpy()) for variable in variables] == pytest.approx(expected)


def test_warm_up_leaves_at_least_one_step_to_the_cosine() -> None:
    one = Stage(name="one", unfreeze=1, epochs=1, learning_rate=0.1, schedule={"kind": "cosine", "warmup_epochs": 0.9})
    assert float(learning_rate(one, steps_per_epoch=2)(0)) == 0
    assert float(learning_rate(one, steps_per_epoch=1)(0)) == pytest.approx(0.1)


def test_a_variable_learns_at_its_own_rate() -> None:
    """One step of SGD with gradients of 1: each weight falls by the rate × its scale."""
    weights = [keras.Variable(np.ones(2), name=name) for name in ("low", "high", "head")]
    scales = {weights[0].path: 0.25, weights[1].path: 0.5}
    optimizer = make_optimizer(
        stage(optimizer={"kind": "sgd", "momentum": 0}), steps_per_epoch=5, precision="float32", scales=scales
    )
    optimizer.apply([keras.ops.ones(2)] * 3, weights)
    fallen = [1 - keras.ops.convert_to_numpy(weight)[0] for weight in weights]
    assert fallen == pytest.approx([PEAK * 0.25, PEAK * 0.5, PEAK], rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("scale", [None, 0.25])
def test_kernels_decay_at_their_own_rate_and_nothing_else_does(scale: float | None, precision: str) -> None:
    """Without a gradient a weight falls by its rate × the decay alone; gamma, beta and biases stay."""
    layers = keras.layers
    network = keras.Sequential([layers.Input((4, 4, 2)), layers.Conv2D(2, 1, bias_initializer="ones")])
    for layer in (layers.BatchNormalization(beta_initializer="ones"), layers.Flatten(), layers.Dense(1)):
        network.add(layer)
    kernel, head = network.layers[0].kernel, network.layers[-1].kernel
    settings = stage(optimizer={"kind": "adamw", "weight_decay": 0.5})
    scales = {} if scale is None else {kernel.path: scale}
    optimizer = make_optimizer(settings, steps_per_epoch=5, precision=precision, scales=scales)
    weights = network.trainable_variables
    before = [keras.ops.convert_to_numpy(weight) for weight in weights]
    optimizer.apply([keras.ops.zeros(weight.shape) for weight in weights], weights)
    for weight, was in zip(weights, before, strict=True):
        decay = {kernel.path: PEAK * 0.5 * (scale or 1), head.path: PEAK * 0.5}.get(weight.path, 0.0)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(weight), was * (1 - decay), rtol=1e-6)


def test_the_moving_average_by_hand() -> None:
    """Weights 1, then 0.98, 0.96, 0.94: Keras starts the average at the first step's weights."""
    weight = keras.Variable(1.0)
    settings = stage(optimizer={"kind": "sgd", "momentum": 0}, ema=0.5)
    optimizer = make_optimizer(settings, steps_per_epoch=5, precision="float32", scales={})
    for _ in range(3):
        optimizer.apply([keras.ops.ones(())], [weight])
    assert float(weight) == pytest.approx(0.94)
    optimizer.finalize_variable_values([weight])
    assert float(weight) == pytest.approx(0.5 * (0.5 * 0.98 + 0.5 * 0.96) + 0.5 * 0.94)


def test_without_a_momentum_there_is_no_average() -> None:
    assert ema_callback(stage()) == []
    assert not make_optimizer(stage(), steps_per_epoch=5, precision="float32", scales={}).use_ema
