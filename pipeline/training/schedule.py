"""Optimizers and learning-rate schedules of a stage."""

from collections.abc import Mapping
from typing import Any

from pipeline.recipe import SGD, AdamW, Cosine, Exponential, Plateau, Stage


def make_optimizer(stage: Stage, *, steps_per_epoch: int, precision: str, scales: Mapping[str, float]) -> Any:
    """The stage's Keras optimizer, fresh: nothing is carried over from the stage before.

    With `mixed_float16` the loss is scaled, lest small gradients vanish (Micikevicius et al., 2018).

    Args:
        scales: By variable path, what its learning rate is multiplied by; 1 for those not named.
    """
    import keras

    settings, options = stage.optimizer, {"global_clipnorm": stage.clip_norm}
    if stage.ema is not None:
        options |= {"use_ema": True, "ema_momentum": stage.ema}
    kind: Any = keras.optimizers.Adam
    if isinstance(settings, AdamW):
        kind, options["weight_decay"] = keras.optimizers.AdamW, settings.weight_decay
    elif isinstance(settings, SGD):
        kind, options["momentum"] = keras.optimizers.SGD, settings.momentum
    optimizer = _as_the_field_does(kind, scales)(learning_rate(stage, steps_per_epoch=steps_per_epoch), **options)
    if precision == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _as_the_field_does(kind: Any, scales: Mapping[str, float]) -> Any:
    """The optimizer class, with what Keras has not: a learning rate of its own for some variables, and weights that
    decay only where they are kernels. Biases, BatchNorm's gamma and beta and the like do not (He et al., “Bag of tricks
    for image classification”, CVPR 2019); Keras' AdamW decays all."""
    import keras

    class Kernels(kind):
        def build(self, variables: Any) -> None:
            self.exclude_from_weight_decay([variable for variable in variables if len(variable.shape) < 2])
            super().build(variables)

    class Scaled(Kernels):
        def _apply_weight_decay(self, variables: Any) -> None:
            """Below, at each variable's own rate."""

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            # By its index, as Keras' own optimizers do: with TensorFlow `variable` is the bare one, which has no path.
            keras_variable = self._trainable_variables[self._get_variable_index(variable)]
            rate = learning_rate * scales.get(keras_variable.path, 1.0)
            if self.weight_decay and self._use_weight_decay(keras_variable):
                self.assign_sub(variable, variable * keras.ops.cast(rate * self.weight_decay, variable.dtype))
            super().update_step(gradient, variable, rate)

    return Scaled if scales else Kernels


def ema_callback(stage: Stage) -> list[Any]:
    """The callback that validates and keeps the moving average instead of the weights, if the stage has one."""
    import keras

    return [] if stage.ema is None else [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]


def learning_rate(stage: Stage, *, steps_per_epoch: int) -> Any:
    """A number, or a Keras schedule over the stage's steps."""
    import keras

    schedule, peak = stage.schedule, stage.learning_rate
    if isinstance(schedule, Exponential):
        return keras.optimizers.schedules.ExponentialDecay(peak, schedule.decay_steps, schedule.decay_rate)
    if isinstance(schedule, Cosine):
        steps = stage.epochs * steps_per_epoch
        warmup = min(round(schedule.warmup_epochs * steps_per_epoch), steps - 1)
        return keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup else peak,
            decay_steps=steps - warmup,
            warmup_target=peak if warmup else None,
            warmup_steps=warmup,
        )
    return peak


def plateau_callback(stage: Stage, *, monitor: str, mode: str) -> list[Any]:
    """The callback that lowers the rate on a plateau, if the stage's schedule is one."""
    import keras

    if not isinstance(stage.schedule, Plateau):
        return []
    settings = stage.schedule
    return [
        keras.callbacks.ReduceLROnPlateau(
            monitor=monitor, mode=mode, factor=settings.factor, patience=settings.patience
        )
    ]
