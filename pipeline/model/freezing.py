"""Freezing: which layers of a backbone make a block, and which blocks are trained.

The names that layers have in each family stand in `backbones.py`; that every layer with weights is claimed by
exactly one block is seen to here.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any, Literal

from pipeline.model.backbones import BACKBONES, Blocks

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class UnfreezeSummary:
    """What `unfreeze` did.

    Attributes:
        blocks: How many blocks the backbone has.
        unfrozen: How many of them, counted from the output end, are trained.
        first_layer: The first layer of the first block that is trained; None if none is.
        trainable_parameters: Numbers in the backbone's trainable weights.
        parameters: Numbers in all of its weights.
    """

    blocks: int
    unfrozen: int
    first_layer: str | None
    trainable_parameters: int
    parameters: int


def blocks(backbone: "keras.Model", name: str) -> list[list[Any]]:
    """Group the layers with weights into the backbone's blocks.

    Args:
        backbone: Built by `build_backbone(name, …)`; nested models in it are looked into.
        name: The backbone's name.

    Returns:
        Blocks from input to output, each a list of layers from input to output. Every layer with weights
        is in exactly one.

    Raises:
        ValueError: A layer with weights belongs to no block, or a block's layers do not stand together.
            Either means that this version of Keras builds the network differently from what is written in
            `backbones.py`.
    """
    rules = BACKBONES[name].blocks
    grouped: dict[str, list[Any]] = {}
    current: str | None = None
    for layer in _leaves(backbone):
        if not layer.weights:
            continue
        key = _block_of(layer.name, rules)
        if key is None and current is not None and rules.joining and re.fullmatch(rules.joining, layer.name):
            key = current
        if key is None:
            raise ValueError(f"layer {layer.name!r} of the backbone {name} belongs to no block")
        if key != current and key in grouped:
            raise ValueError(f"layer {layer.name!r} of the backbone {name} stands outside its block {key!r}")
        grouped.setdefault(key, []).append(layer)
        current = key
    return list(grouped.values())


def _block_of(layer_name: str, rules: Blocks) -> str | None:
    for pattern in rules.own:
        match = re.fullmatch(pattern, layer_name)
        if match:
            return "".join(match.groups())
    return None


def _leaves(model: "keras.Model") -> Iterator[Any]:
    """Go through the layers in order, into models within the model."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def unfreeze(
    backbone: "keras.Model", name: str, fraction: float, *, batch_norm: Literal["frozen", "trained"]
) -> UnfreezeSummary:
    """Make the last blocks trainable and all the others not.

    A BatchNorm layer that is not trainable is in inference mode: it uses its moving statistics and leaves
    them as they are (Keras' transfer-learning guide). Dropout in frozen blocks stays as it is. A compiled
    model has to be compiled again afterwards.

    Args:
        backbone: Built by `build_backbone(name, …)`.
        name: The backbone's name.
        fraction: Share of the blocks, 0..1; of `n` blocks the last `fraction · n` are trained, a half rounded
            up, and at least one unless the fraction is 0.
        batch_norm: Whether BatchNorm in those blocks is trained with them or kept `frozen`.

    Raises:
        ValueError: The fraction is not in 0..1; or see `blocks`.
    """
    import keras

    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be from 0 to 1; received {fraction}")
    grouped = blocks(backbone, name)
    # In decimal, so that 0.29 of 50 blocks is 14.5, a half, and not 14.499….
    share = int((Decimal(str(fraction)) * len(grouped)).quantize(Decimal(1), ROUND_HALF_UP))
    unfrozen = 0 if fraction == 0 else max(1, share)
    # First everything, since a model inside the backbone that is frozen itself hides its layers' weights.
    backbone.trainable = True
    for index, block in enumerate(grouped):
        for layer in block:
            trained = index >= len(grouped) - unfrozen
            if batch_norm == "frozen" and isinstance(layer, keras.layers.BatchNormalization):
                trained = False
            layer.trainable = trained
    return UnfreezeSummary(
        blocks=len(grouped),
        unfrozen=unfrozen,
        first_layer=grouped[-unfrozen][0].name if unfrozen else None,
        trainable_parameters=sum(math.prod(w.shape) for w in backbone.trainable_weights),
        parameters=sum(math.prod(w.shape) for w in backbone.weights),
    )


def depth_scales(backbone: "keras.Model", name: str, decay: float) -> dict[str, float]:
    """What the learning rate of each of the backbone's variables is multiplied by: `decay` to the power of its depth.

    The depth is the block's number counted from the output end, from 1 (Howard & Ruder, “Universal language model
    fine-tuning for text classification”, ACL 2018).

    Returns:
        By variable path; empty with a decay of 1.
    """
    if decay == 1:
        return {}
    numbered = enumerate(reversed(blocks(backbone, name)), start=1)
    return {variable.path: decay**depth for depth, block in numbered for layer in block for variable in layer.weights}
