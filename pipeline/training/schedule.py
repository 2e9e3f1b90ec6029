"""Optimizers and learning-rate schedules of a stage."""

from typing import Any

from pipeline.recipe import SGD, AdamW, Cosine, Exponential, Plateau, Stage


def make_optimizer(stage: Stage, *, steps_per_epoch: int, precision: str) -> Any:
    """The stage's Keras optimizer, fresh: nothing is carried over from the stage before.

    With `mixed_float16` the loss is scaled, lest small gradients vanish (Micikevicius et al., 2018).
    """
    import keras

    rate = learning_rate(stage, steps_per_epoch=steps_per_epoch)
    settings, clip = stage.optimizer, stage.clip_norm
    if isinstance(settings, AdamW):
        optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay, global_clipnorm=clip)
    elif isinstance(settings, SGD):
        optimizer = keras.optimizers.SGD(rate, momentum=settings.momentum, global_clipnorm=clip)
    else:
        optimizer = keras.optimizers.Adam(rate, global_clipnorm=clip)
    if precision == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


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
