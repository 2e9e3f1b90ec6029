"""Recipe: every setting of an experiment and its default, in one place.

A recipe is a YAML file. Unknown keys are refused, and so is a setting that would have no effect. What a
setting means is said here; how it is done is said where it is done.
"""

import copy
import difflib
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from pipeline.errors import RecipeError, counted
from pipeline.settings import NAME, Settings, explain, parse_mapping, parse_yaml, read_mapping

log = logging.getLogger(__name__)

SIZE_MULTIPLE = 32  # every backbone halves its input five times


def _kind(value: Any) -> Any:
    """`adam` is short for `{kind: adam}`."""
    return {"kind": value} if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """As YAML has it."""
    return "null" if value is None else getattr(value, "kind", value)


class Adam(Settings):
    kind: Literal["adam"] = "adam"


class AdamW(Settings):
    kind: Literal["adamw"] = "adamw"
    weight_decay: float = Field(default=0.01, gt=0)


class SGD(Settings):
    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)


class LogisticRegression(Settings):
    """The head alone, fitted to its optimum: multinomial logistic regression with an L2 penalty on features of the
    frozen backbone (a linear probe), to be beaten, or to begin fine-tuning with (Kumar et al., "Fine-tuning can distort
    pretrained features and underperform out-of-distribution", ICLR 2022).

    Attributes:
        c: Inverse of the penalty's weight, on standardised features; `auto` is chosen on training rows.
    """

    kind: Literal["logistic_regression"] = "logistic_regression"
    c: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"


Optimizer = Annotated[Adam | AdamW | SGD | LogisticRegression, Field(discriminator="kind")]


class Constant(Settings):
    kind: Literal["constant"] = "constant"


class Exponential(Settings):
    """Learning rate × `decay_rate` for every `decay_steps` batches, continuously."""

    kind: Literal["exponential"] = "exponential"
    decay_rate: float = Field(default=0.9, gt=0, lt=1)
    decay_steps: int = Field(default=1000, ge=1)


class Cosine(Settings):
    """Linear warm-up over `warmup_epochs`, then half a cosine down to zero (Loshchilov & Hutter, 2017)."""

    kind: Literal["cosine"] = "cosine"
    warmup_epochs: float = Field(default=0.0, ge=0)


class Plateau(Settings):
    """Learning rate × `factor` after `patience` epochs in which the monitored value did not improve."""

    kind: Literal["plateau"] = "plateau"
    factor: float = Field(default=0.3, gt=0, lt=1)
    patience: int = Field(default=2, ge=1)


Schedule = Annotated[Constant | Exponential | Cosine | Plateau, Field(discriminator="kind")]


class EarlyStopping(Settings):
    """End the stage after `patience` epochs in which the monitored value did not improve."""

    patience: int = Field(ge=1)


class OnFold(Settings):
    """The held-out fold itself chooses: all other rows are trained on, and the fold's score is a little flattered."""

    kind: Literal["fold"] = "fold"


class OnInner(Settings):
    """One training row in so many, the same in every stage, chooses and is not trained on."""

    kind: Literal["inner"] = "inner"
    one_in: int = Field(default=10, ge=2, le=100)


class OnLast(Settings):
    """Nothing chooses: the last epoch is kept."""

    kind: Literal["last"] = "last"


SelectOn = Annotated[OnFold | OnInner | OnLast, Field(discriminator="kind")]


class Head(Settings):
    """What stands on the backbone: pooling, then batch norm, dense layers with ReLU, dropout, logits."""

    pooling: Literal["avg", "max", "gem"] = "avg"
    batch_norm: bool = False
    dense: tuple[Annotated[int, Field(ge=1)], ...] = ()
    dropout: float = Field(default=0.2, ge=0, lt=1)


Side = Annotated[int, Field(ge=8, le=4096)]
Fraction = Annotated[float, Field(gt=0, le=4)]


class Square(Settings):
    """The mean's shape with as many pixels as a square of this side has, or the mean itself where it has fewer."""

    square: Side


Size = tuple[Side, Side] | Literal["mean"] | Fraction | Square
Augment = str | tuple[dict[str, dict[str, Any]], ...]


def resolve_size(size: Size, mean: tuple[float, float]) -> tuple[int, int]:
    """Height and width in pixels, given the mean height and width of the training pictures."""
    if isinstance(size, tuple):
        return size
    if isinstance(size, Square):
        fraction = min(1.0, size.square / math.sqrt(mean[0] * mean[1]))
    else:
        fraction = 1.0 if size == "mean" else float(size)
    height, width = (max(1, round(side * fraction / SIZE_MULTIPLE)) * SIZE_MULTIPLE for side in mean)
    return height, width


def read_size(text: str) -> Size:
    """A size as it is written on the command line: `160x288` (height x width), `mean`, or a fraction of it.

    Raises:
        RecipeError: It is none of these, or out of range.
    """
    height, times, width = text.partition("x")
    try:
        return TypeAdapter(Size).validate_python((height, width) if times else text if text == "mean" else float(text))
    except ValueError:
        raise RecipeError(
            f"{text!r} is no size",
            expected="HEIGHTxWIDTH in pixels from 8 to 4096, `mean`, or a fraction of the mean of at most 4",
            next_step="write it so: 160x288, mean or 0.5",
        ) from None


class Stage(Settings):
    """One leg of the training: what is unfrozen, at which size, for how long, how fast.

    Attributes:
        unfreeze: Share of the backbone's blocks that are trained, counted from the output end, 0..1.
        size: `[height, width]`, `mean` (of the training pictures, each side rounded to a multiple of 32)
            or a fraction of that mean, or `{square: 224}`: the mean's shape with as many pixels as a square of that
            side, at most the mean's own; both rounded likewise.
        batch_size: Pictures that each step of the optimizer is of, on every machine.
        accumulate: In how many parts a batch goes through the network, one after the other, so that only
            `batch_size / accumulate` pictures need memory at once; `auto` takes the fewest that fit the machine. The
            result is the whole batch's but for rounding, and dropout draws other numbers: it is not in the
            fingerprint. BatchNorm that is trained sees the parts: there it is, and `auto` is refused.
        learning_rate: The peak of the schedule.
        clip_norm: Gradients whose global norm is larger are scaled down to it (Pascanu et al., 2013).
        monitor: What chooses the best epoch, stops early and lowers the rate on a plateau: the `loss` of the
            recipe's `select_on` rows, or the competition's metric of them (`score`).
        layer_decay: The backbone's last block learns at the rate × this, the one before at × its square and so on; the
            head at the rate itself (Howard & Ruder, 2018).
        ema: Momentum of a moving average of the weights over the batches, which is what is validated and kept.
        augment: A preset's name, or albumentations transforms: `[{HorizontalFlip: {p: 0.5}}, …]`.
        feature_views: While nothing is unfrozen, the backbone sees each picture once plain and this often augmented,
            for all epochs and folds together, and the head is trained on what it made of them. `every`: a new view in
            every epoch, as where the backbone is trained or pictures are mixed.
        mixup: Alpha of the Beta distribution that shares of mixed pictures are drawn from (see `data/mix.py`).
        cutmix: Likewise; with both, a coin decides for each picture.
        batch_norm: Whether the unfrozen blocks' BatchNorm is trained with them, or stays `frozen`, that
            is, in inference mode. Frozen is right for pretrained weights, trained for random ones.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    unfreeze: float = Field(ge=0, le=1)
    size: Size = "mean"
    epochs: int = Field(ge=1)
    batch_size: int = Field(default=32, ge=1)
    accumulate: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    optimizer: Annotated[Optimizer, BeforeValidator(_kind)] = Adam()
    learning_rate: float = Field(gt=0)
    clip_norm: float | None = Field(default=None, gt=0)
    schedule: Annotated[Schedule, BeforeValidator(_kind)] = Constant()
    early_stopping: EarlyStopping | None = None
    monitor: Literal["loss", "score"] = "loss"
    layer_decay: float | None = Field(default=None, gt=0, lt=1)
    ema: float | None = Field(default=None, gt=0, lt=1)
    augment: Augment = "light"
    feature_views: Annotated[int, Field(ge=1, le=100)] | Literal["every"] = 4
    mixup: float | None = Field(default=None, gt=0)
    cutmix: float | None = Field(default=None, gt=0)
    batch_norm: Literal["frozen", "trained"] = "frozen"

    @model_validator(mode="before")
    @classmethod
    def _no_epochs(cls, content: Any) -> Any:
        """A regression is fitted once."""
        named = content.get("optimizer") if isinstance(content, Mapping) else None
        kind = named.get("kind") if isinstance(named, Mapping) else named
        fitted_once = {"unfreeze": 0, "epochs": 1, "learning_rate": 1.0}
        return {**fitted_once, **content} if kind == "logistic_regression" else content

    @model_validator(mode="after")
    def _closed_form(self) -> "Stage":
        if isinstance(self.optimizer, LogisticRegression):
            fields = type(self).model_fields
            of_steps = ("accumulate", "clip_norm", "schedule", "early_stopping", "monitor")
            of_mixing = ("layer_decay", "ema", "mixup", "cutmix")
            plain: dict[str, Any] = {"unfreeze": 0, "epochs": 1, "learning_rate": 1}
            plain |= {name: fields[name].default for name in (*of_steps, *of_mixing)}
            changed = [name for name, value in plain.items() if getattr(self, name) != value]
            if self.feature_views == "every":
                changed.append("feature_views")
            if changed:
                wanted = ", ".join(f"{name}: {_plain(plain.get(name, 4))}" for name in changed)
                raise ValueError(f"optimizer: logistic_regression fits the head once; it needs {wanted}")
        return self

    @model_validator(mode="after")
    def _effective(self) -> "Stage":
        if self.unfreeze == 0 and self.batch_norm == "trained":
            raise ValueError("batch_norm: trained has no effect while unfreeze is 0; leave it out")
        if self.unfreeze == 0 and self.layer_decay is not None:
            raise ValueError("layer_decay has no effect while unfreeze is 0; leave it out")
        if self.feature_views != type(self).model_fields["feature_views"].default:  # which a stored recipe names, too
            if self.unfreeze or self.mixup or self.cutmix:
                raise ValueError("feature_views has no effect with unfreeze above 0, mixup or cutmix; leave it out")
            if self.feature_views != "every" and self.augment in ("none", ()):
                raise ValueError("feature_views has no effect without augment; leave it out")
        if self.accumulate != "auto" and self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide batch_size ({self.batch_size})")
        if isinstance(self.schedule, Cosine) and self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(f"schedule.warmup_epochs must be below epochs ({self.epochs})")
        try:
            self.model_dump(mode="json", include={"augment"})
        except ValueError:  # an anchor that stands for what it is in, or bytes
            raise ValueError("augment must hold plain values: numbers, text and lists of them") from None
        return self

    @property
    def parts(self) -> int:
        """`accumulate`; 1 where the machine has not been asked."""
        return 1 if self.accumulate == "auto" else self.accumulate

    @property
    def at_once(self) -> int:
        """How many pictures go through the network together."""
        return self.batch_size // self.parts

    def resolve_size(self, mean: tuple[float, float]) -> tuple[int, int]:
        """Height and width in pixels, given the mean height and width of the training pictures."""
        return resolve_size(self.size, mean)

    @property
    def prediction_batch(self) -> int:
        """How many pictures are predicted together: as many as training holds at once, or, where these are fewer than
        32, up to four times as many; with `accumulate: auto` at most 32."""
        if self.accumulate == "auto":
            return min(32, self.batch_size)
        # Predicting keeps no activations for gradients, and small batches are slow.
        return max(self.at_once, min(32, 4 * self.at_once))


class TTA(Settings):
    """Test-time augmentation: the views whose predictions are averaged with the plain picture's.

    Attributes:
        views: Names from `predictions/tta.py`, each once.
        use: Whether the averaged predictions make the submission: `auto` takes them only where they
            raised the OOF score.
    """

    views: tuple[str, ...] = ()
    use: Literal["auto", "always", "never"] = "auto"

    @model_validator(mode="after")
    def _effective(self) -> "TTA":
        if len(set(self.views)) != len(self.views):
            raise ValueError(f"views must differ from one another; received {list(self.views)}")
        if self.views and self.use == "never":
            raise ValueError("views have no effect with use: never; leave them out")
        if not self.views and self.use == "always":
            raise ValueError("use: always has no effect without views; name some")
        return self


class Recipe(Settings):
    """An experiment's settings.

    Attributes:
        backbone: A name from `model/backbones.py`.
        weights: `none`, `imagenet`, `noisy-student`, or a `.h5` file of the backbone's weights.
        extra: Names of extra rows to train on, too: declared in competition.yaml, or made by `kit pseudo-label`.
        precision: What the network computes in; its logits are float32 always. `auto`: mixed where the device gains by
            it (`training/device.py`), float32 elsewhere.
        select_on: Which rows choose the best epoch of a stage, stop it early and lower its rate: none, the `last` epoch
            being kept; `inner` (`{kind: inner, one_in: 10}`); or those of the scored `fold`.
        end_on: Which of its stages a fold ends on, and a stage begins from. `best`: the last one that no earlier one is
            better than, on the rows of `select_on` and by the `monitor` of the later one; with `select_on: last` on the
            scored fold, by the competition's metric and by more than the standard error of the difference. `last`:
            always the last.
    """

    name: str = Field(pattern=f"^{NAME}$")
    description: str = ""
    backbone: str
    weights: str = "imagenet"
    head: Head = Head()
    extra: tuple[Annotated[str, Field(pattern=f"^{NAME}$")], ...] = ()
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"] = "auto"
    seed: int = Field(default=0, ge=0)
    select_on: Annotated[SelectOn, BeforeValidator(_kind)] = OnLast()
    end_on: Literal["best", "last"] = "best"
    stages: tuple[Stage, ...] = Field(min_length=1)
    tta: TTA = TTA()

    @model_validator(mode="after")
    def _extra_names(self) -> "Recipe":
        if len(set(self.extra)) != len(self.extra):
            raise ValueError(f"extra must name each source once; received {list(self.extra)}")
        return self

    @model_validator(mode="after")
    def _stage_names(self) -> "Recipe":
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages must have different names; received {names}")
        return self

    @model_validator(mode="after")
    def _logits_alone(self) -> "Recipe":
        plain = self.head.pooling != "gem" and not self.head.batch_norm and not self.head.dense
        for stage in self.stages:
            if isinstance(stage.optimizer, LogisticRegression) and not plain:
                raise ValueError(
                    f"stage {stage.name}: optimizer: logistic_regression fits the logits alone; leave the head's dense "
                    "layers, batch_norm and pooling: gem out"
                )
        if all(isinstance(stage.optimizer, LogisticRegression) for stage in self.stages):
            if self.label_smoothing:
                raise ValueError("label_smoothing has no effect on a logistic_regression alone; leave it out")
            if not isinstance(self.select_on, OnLast) and not self.chooses_stage:
                raise ValueError(
                    "select_on has no effect on a logistic_regression alone, which has no epochs; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _one_stage(self) -> "Recipe":
        if self.end_on == "last" and len(self.stages) == 1:
            raise ValueError("end_on: last has no effect on one stage; leave it out")
        return self

    @model_validator(mode="after")
    def _same_on_every_machine(self) -> "Recipe":
        for stage in self.stages:
            if stage.accumulate == "auto" and self.sees_parts(stage.batch_norm):
                raise ValueError(
                    f"stage {stage.name}: with accumulate: auto the result would depend on the machine, as BatchNorm "
                    "that is trained sees the parts; give a number"
                )
        return self

    def sees_parts(self, batch_norm: str) -> bool:
        """Whether it matters for a stage with such a `batch_norm` in how many parts its batches are."""
        return batch_norm == "trained" or self.head.batch_norm

    @model_validator(mode="after")
    def _nothing_watched(self) -> "Recipe":
        if not isinstance(self.select_on, OnLast):
            return self
        for stage in self.stages:
            watching = {
                "early_stopping": stage.early_stopping is not None,
                "schedule: plateau": isinstance(stage.schedule, Plateau),
                "monitor: score": stage.monitor == "score",
            }
            for setting, there in watching.items():
                if there:
                    raise ValueError(
                        f"stage {stage.name}: {setting} has no effect with select_on: last, the default; leave it out, "
                        "or say which rows it is to watch: select_on: inner (or fold)"
                    )
        return self

    @property
    def chooses_stage(self) -> bool:
        """Whether a fold may end on another stage than the last."""
        return self.end_on == "best" and len(self.stages) > 1

    @property
    def prediction_batch(self) -> int:
        """The smallest of its stages: it fits the memory whichever of them a model is of."""
        return min(stage.prediction_batch for stage in self.stages)

    def stage_number(self, stage: str) -> int:
        """The position, from 0, of the stage of this name, or else of this number.

        Raises:
            RecipeError: There is none.
        """
        names = [one.name for one in self.stages]
        numbers = {**{str(number): number for number in range(len(names))}, **{x: n for n, x in enumerate(names)}}
        if stage not in numbers:
            raise RecipeError(
                f"{self.name} has no stage {stage!r}",
                expected="one of " + ", ".join(f"{name} ({number})" for number, name in enumerate(names)),
                next_step="give its name, or its number counted from 0",
            )
        return numbers[stage]

    def fingerprint(self) -> str:
        """Hash of what changes the result, and of nothing else: names and the description do not."""
        content = self.model_dump(mode="json", exclude={"name", "description"})
        for stage in content["stages"]:
            del stage["name"]
            if not self.sees_parts(stage["batch_norm"]):
                del stage["accumulate"]
        if len(self.stages) == 1:
            del content["end_on"]
        content["extra"] = sorted(self.extra)
        if Path(self.weights).is_file():
            content["weights"] = hashlib.sha256(Path(self.weights).read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def shipped_recipes() -> dict[str, str]:
    """Name → YAML text of the recipes that come with the package."""
    folder = resources.files("pipeline") / "recipes"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {f.name.removesuffix(".yaml"): f.read_text("utf-8") for f in files}


def load_recipe(source: str, *, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply overrides, and check it.

    Args:
        source: A shipped recipe's name, or a YAML file.
        overrides: Settings as `path=value`, the path dotted (`stages.1.epochs=3`, `stages.*.epochs=3`), the value YAML.

    Where an override leaves a stage fewer epochs than its warm-up has, the warm-up becomes half of them.

    Raises:
        RecipeError: There is no such recipe, or it does not hold.
    """
    path = Path(source)
    shipped = shipped_recipes()
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise RecipeError(
                f"there is no recipe file {source}",
                expected="a YAML file, or one of the shipped recipes: " + ", ".join(shipped),
                next_step="check the path",
            )
        content = read_mapping(path)
    elif source in shipped:
        content = parse_mapping(shipped[source], source=source)
    else:
        close = difflib.get_close_matches(source, shipped, n=1)
        raise RecipeError(
            f"there is no recipe {source!r}",
            expected="one of " + ", ".join(shipped) + ", or a path ending in .yaml",
            next_step=f"did you mean {close[0]!r}?" if close else "name one of those",
        )
    before = _warm_ups(content)
    for override in overrides:
        _apply(content, override)
    for number, (epochs, warm_up) in _warm_ups(content).items():
        # A trial of few epochs is no reason to refuse a warm-up that nobody named.
        was, same = before.get(number, (0, None))
        if warm_up == same and warm_up < was and warm_up >= epochs > 0:
            _apply(content, f"stages.{number}.schedule.warmup_epochs={epochs / 2:g}")
            where, of = f"stages.{number}.schedule.warmup_epochs", counted(epochs, "epoch", "epochs")
            log.warning("%s is shortened from %g to %g, as the stage has %s", where, warm_up, epochs / 2, of)
    return parse_recipe(content, source=source)


def _warm_ups(content: Mapping[str, Any]) -> dict[int, tuple[int, float]]:
    """Of each stage that has a warm-up: its epochs and those of the warm-up, where both are numbers."""
    stages = content.get("stages")
    found = {}
    for number, stage in enumerate(stages if isinstance(stages, list) else ()):
        schedule = stage.get("schedule") if isinstance(stage, dict) else None
        warm_up = schedule.get("warmup_epochs") if isinstance(schedule, dict) else None
        if isinstance(warm_up, int | float) and isinstance(epochs := stage.get("epochs"), int):
            found[number] = (epochs, warm_up)
    return found


def parse_recipe(content: Mapping[str, Any], *, source: str) -> Recipe:
    """Check settings read from `source` (named in errors)."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError(
            f"the recipe {source} has mistakes:\n{explain(error, Recipe)}",
            expected="the settings " + ", ".join(Recipe.model_fields) + "; of a stage " + ", ".join(Stage.model_fields),
            next_step="mend the recipe or the --set that changed it",
        ) from None


def smoke(recipe: Recipe, *, side: int) -> Recipe:
    """The recipe at its smallest, to see that it runs: random weights, one epoch a stage, squares of `side` pixels, and
    no extra rows."""
    stages = []
    for stage in recipe.stages:
        schedule = Cosine() if isinstance(stage.schedule, Cosine) else stage.schedule
        batch_size = min(8, stage.batch_size)
        changes = {"size": (side, side), "epochs": 1, "batch_size": batch_size, "schedule": schedule}
        changes["accumulate"] = math.gcd(batch_size, stage.parts)
        stages.append(stage.model_copy(update=changes))
    select_on = OnInner(one_in=2) if isinstance(recipe.select_on, OnInner) else recipe.select_on  # of few pictures, too
    return recipe.model_copy(update={"weights": "none", "stages": tuple(stages), "select_on": select_on, "extra": ()})


def _apply(content: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    parts = path.split(".")
    if not equals or not all(parts):
        raise RecipeError(
            f"cannot read the setting {override!r}",
            expected="PATH=VALUE, as in stages.1.epochs=3",
            next_step="write it so",
        )
    _set(content, parts, parse_yaml(value, source=f"the value of {override!r}"), override=override)


def _set(target: Any, parts: Sequence[str], value: Any, *, override: str, depth: int = 0) -> None:
    """Set what `parts` lead to from `depth` on; `*` leads to every entry of a list."""
    part, where = parts[depth], ".".join(parts[:depth])
    keys: Sequence[Any] = [part]
    if isinstance(target, list):
        keys = range(len(target)) if part == "*" else [int(part)] if part.isdecimal() else [len(target)]
        if not set(keys) <= set(range(len(target))):
            raise RecipeError(
                f"{override!r}: {where} has no entry {part!r}",
                expected=f"a number from 0 to {len(target) - 1}, or * for all",
                next_step="count from 0",
            )
    elif not isinstance(target, dict):
        raise RecipeError(
            f"{override!r}: {where} is {target!r}, which has no settings inside",
            expected="a path that ends on a setting",
            next_step=f"shorten it, or set {where} whole",
        )
    for key in keys:
        if depth == len(parts) - 1:
            target[key] = value
            continue
        # A copy, since YAML's anchors put one and the same object in several places.
        target[key] = copy.copy(target[key] if isinstance(target, list) else target.get(key, {}))
        _set(target[key], parts, value, override=override, depth=depth + 1)
