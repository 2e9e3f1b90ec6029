"""Blend: several experiments' predictions made one, scored on rows that its weights were not fitted on, and stored.

Every method is scored by nested cross-fitting: what it applies to fold k (weights, temperatures, which member is the
best single one) was found on the OOF rows of the other folds. A row's own label never has a part in its blended
prediction. Those predictions are stored as the blend's OOF, and their score is the blend's; the test predictions are
made with what was found on all rows. Only the method itself is chosen by the very scores that are reported, out of
seven. Of members that know nothing this makes about 0.7 standard errors (`tests/test_chance.py`), though the simplest
near the best is taken.
"""

import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.artifacts import Workspace, lock, read_json
from pipeline.errors import DataError, KitError
from pipeline.predictions.aligned import Aligned
from pipeline.predictions.blend_methods import (
    METHODS,
    SIMPLEST,
    Blended,
    Members,
    Rule,
    apply_temperatures,
)
from pipeline.predictions.calibration import fit_temperature
from pipeline.predictions.compare import fold_scores, sample
from pipeline.predictions.decide import fit_decision
from pipeline.predictions.manifests import MANIFEST
from pipeline.predictions.metrics import METRIC_SETTINGS, Metric
from pipeline.predictions.scores import Labels
from pipeline.predictions.store import Experiment, finish_experiment, prediction_frame, probabilities_of
from pipeline.settings import NAME
from pipeline.targets import require_single

Calibration = Literal["none", "temperature"]

_PACKAGES = ("numpy", "pandas", "scipy", "scikit-learn")
_RESAMPLES = 200
_SAME = 1e-6  # scores that differ by less differ by rounding
_SHORT = 40  # a longer name makes tables too wide
_LONGEST = 100  # a submission's file name holds the experiment's


@dataclass(frozen=True)
class ScoredMethod:
    """What a method is worth.

    Attributes:
        score: Of the cross-fitted predictions, with the standard error over the rows beside it.
        fold_scores: By fold.
        gain: How much better than the member that scores best, on the same rows; negative if worse.
        weights: Fitted on all rows, a member each; None where a member has no single weight.
    """

    name: str
    score: float
    score_se: float
    fold_scores: dict[int, float]
    gain: float
    gain_se: float
    weights: tuple[float, ...] | None


@dataclass(frozen=True)
class Blend:
    """The method that was chosen, and what it was chosen from.

    Attributes:
        reason: Why it was, in words.
        scored: Every method, from the simplest on.
        oof: Cross-fitted predictions of the chosen method, float32 of shape (rows, classes).
        rule: The chosen method fitted on all rows, for rows without labels.
        temperatures: Fitted on all rows, a member each; None where members are taken as they are.
    """

    method: str
    reason: str
    scored: tuple[ScoredMethod, ...]
    oof: Blended
    rule: Rule
    temperatures: tuple[float, ...] | None

    def predict(self, members: Members) -> Blended:
        """Blend rows of no fold: float32 (members, rows, classes) → (rows, classes)."""
        return self.rule.apply(members if self.temperatures is None else apply_temperatures(members, self.temperatures))

    @property
    def result(self) -> ScoredMethod:
        return next(one for one in self.scored if one.name == self.method)


def make_blend(aligned: Aligned, *, method: str | None = None, calibration: Calibration = "none") -> Blend:
    """Score every method and choose one.

    With a single fold there are no other rows to fit on: the methods that learn weights are left out, and the best
    single member is the one that its own score calls so.

    Args:
        method: One of `METHODS`. Defaults to the simplest that is within one standard error of the best.
        calibration: "temperature" scales each member first, fitted as weights are.

    Raises:
        DataError: There is but one member, or one fold and something to fit.
    """
    if len(aligned.probabilities) < 2:
        raise DataError(
            f"a blend of {', '.join(aligned.probabilities)} alone",
            expected="two experiments or more",
            next_step="name another one; `kit oof list` shows what there is",
        )
    several = len(np.unique(aligned.folds)) > 1
    if not several:
        _refuse_to_fit(method, calibration)
    names = [name for name, one in METHODS.items() if several or not one.learns]
    if aligned.labels.ndim == 2:
        names = [name for name in names if METHODS[name].several]
        if calibration == "temperature" or (method and method not in names):
            require_single("multilabel", "--temperature" if calibration == "temperature" else f"the method {method}")
    members = np.stack(list(aligned.probabilities.values()))
    # The thread pools of NumPy and of SciPy take turns here and wait for each other: one thread is up to ten times as
    # fast as two.
    with threadpool_limits(1):
        found = _cross_fitted(names, members, aligned, calibration)
        temperatures, rules = _fit(names, members, aligned.labels, aligned.metric, calibration)
    scored, simplest, reason = _judge(aligned, found, rules)
    if method is not None:
        reason = "as told; by itself the kit would choose " + (f"it, too: {reason}" if method == simplest else simplest)
    if not several:
        reason += "; there is one fold, so what would have to be fitted is left out, and single chosen by its score"
    chosen = method or simplest
    return Blend(chosen, reason, scored, found[chosen], rules[chosen], temperatures)


def blend_name(members: Sequence[str], *, method: str | None, calibration: Calibration) -> str:
    """A blend's name if nobody gives one: what was told of how, and what it is of, or of how many if that is long."""
    told = [*([method] if method else []), *(["temperature"] if calibration == "temperature" else [])]
    named = "-".join(["blend", *told, *members])
    if len(named) <= _SHORT:
        return named
    digest = hashlib.sha256("\n".join(members).encode()).hexdigest()[:6]
    return "-".join(["blend", *told, str(len(members)), digest])


def blend_fingerprint(experiments: Sequence[Experiment], *, method: str | None, calibration: Calibration) -> str:
    """Hash of what was asked for: the members' names and fingerprints, the method if told, the calibration."""
    members = [(one.name, one.manifest["fingerprint"]) for one in experiments]
    return hashlib.sha256(json.dumps([members, method, calibration]).encode()).hexdigest()[:16]


def claim_name(name: str, first: Experiment, *, fingerprint: str, workspace: Workspace) -> None:
    """Refuse a name that is taken by something else; the same blend of the same data may be made again.

    Args:
        first: A member.

    Raises:
        KitError: It is no name, or another experiment's, finished or begun.
    """
    if not re.fullmatch(NAME, name) or len(name) > _LONGEST:
        raise KitError(
            f"{name!r} cannot be an experiment's name",
            expected="small letters, digits, dots, dashes and underscores, beginning with a letter or digit, "
            f"{_LONGEST} at most",
            next_step="choose one: --name NAME",
        )
    identity = {"fingerprint": fingerprint, **{key: first.manifest[key] for key in ("data_sha256", "folds_sha256")}}
    for file in (workspace.oof(first.slug, name) / MANIFEST, workspace.run(first.slug, name) / "run.json"):
        begun = read_json(file) if file.is_file() else identity
        if any(begun.get(key) != value for key, value in identity.items()):
            raise KitError(
                f"{file.parent} holds another experiment",
                expected="a name that is free, or that of the same blend of the same data",
                next_step="give the blend a name of its own: --name NAME",
            )


def check_members(experiments: Sequence[Experiment], aligned: Aligned) -> None:
    """Refuse members that would make a blend of something else than the data they name.

    Raises:
        DataError: They predicted different test pictures, or labels have changed since they were scored.
    """
    first = experiments[0]
    for one in experiments:
        if set(one.test["id"]) != set(first.test["id"]):
            raise DataError(
                f"{one.name} has predicted other test pictures than {first.name}",
                expected="members that predict the same test pictures",
                next_step=f"train {one.name} again, or leave it out",
            )
        score = aligned.metric.score(aligned.labels, aligned.probabilities[one.name])
        if abs(score - one.score) > _SAME:
            raise DataError(
                f"{one.name} scored {one.score:.4f} when it was made and {score:.4f} with the labels as they are now",
                expected="the labels that the members were trained and scored with",
                next_step="train the members again, or restore the labels",
            )


def store_blend(
    blend: Blend,
    aligned: Aligned,
    experiments: Sequence[Experiment],
    *,
    name: str,
    fingerprint: str,
    workspace: Workspace,
) -> dict[str, Any]:
    """Write a blend as an experiment, under a name that `claim_name` let pass.

    Args:
        experiments: Those `aligned` is of, in its order.

    Returns:
        Its manifest. It has no recipe and no stages, as nothing was trained, and what it is of under `blend`.
    """
    first = experiments[0]
    frames = {"oof.parquet": prediction_frame(aligned.ids, blend.oof, aligned.classes, fold=aligned.folds)}
    ids = list(first.test["id"])
    if ids:
        members = np.stack([probabilities_of(one.test, ids, aligned.classes) for one in experiments])
        frames["test.parquet"] = prediction_frame(ids, blend.predict(members), aligned.classes)
    by_fold = {str(fold): score for fold, score in blend.result.fold_scores.items()}
    scores = {"score": blend.result.score, "score_se": blend.result.score_se, "fold_scores": by_fold}
    manifest = {
        "competition": first.slug,
        "experiment": name,
        **{key: first.manifest[key] for key in METRIC_SETTINGS if key in first.manifest},
        "target": first.manifest["target"],
        "decision": _decision(blend, aligned, first),
        "greater_is_better": aligned.metric.greater_is_better,
        **{f"{prefix}{key}": value for prefix in ("oof_", "") for key, value in scores.items()},
        **dict.fromkeys(("tta_score", "tta_score_se", "tta_fold_scores", "tta_gain", "tta_gain_se")),
        "tta_used": False,
        "tta_used_by_fold": dict.fromkeys(by_fold, False),
        "select_on": _weakest([one.manifest["select_on"] for one in experiments]),
        "stages_chosen_on": _weakest([one.manifest.get("stages_chosen_on") for one in experiments]),
        **{key: first.manifest[key] for key in ("folds", "missing_folds")},
        "oof_rows": len(aligned.ids),
        "floors": first.manifest["floors"],
        "stages": [],
        "classes": aligned.classes,
        "recipe": None,
        "fingerprint": fingerprint,
        "data_sha256": first.manifest["data_sha256"],
        "folds_sha256": first.manifest["folds_sha256"],
        "blend": _described(blend, experiments),
        "versions": _versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with lock(workspace.run(first.slug, name) / "finish.lock", what=f"the result of {name}", wait=lambda: None):
        finish_experiment(workspace.oof(first.slug, name), frames, manifest)
    return manifest


def _decision(blend: Blend, aligned: Aligned, first: Experiment) -> dict[str, Any] | None:
    """Thresholds or cut points of the blend, where its members have some."""
    said = first.manifest.get("decision")
    if said is None:
        return None
    asked = {"at_least_one": said["at_least_one"]}
    decision = fit_decision(aligned.metric, aligned.labels, blend.oof, aligned.folds, **asked)
    return asdict(decision) if decision else None


def _weakest(kinds: Sequence[str | None]) -> str | None:
    """How the members' epochs or stages were chosen, of the member whose score is flattered most."""
    return next((kind for kind in ("fold", "inner", "last") if kind in kinds), None)


def _described(blend: Blend, experiments: Sequence[Experiment]) -> dict[str, Any]:
    weights, temperatures = blend.rule.weights, blend.temperatures
    return {
        "method": blend.method,
        "reason": blend.reason,
        "members": [
            {
                "experiment": one.name,
                "fingerprint": one.manifest["fingerprint"],
                "score": one.score,
                "tta_used": one.manifest["tta_used"],
                "weight": weights[number] if weights else None,
                "temperature": temperatures[number] if temperatures else None,
            }
            for number, one in enumerate(experiments)
        ],
        "methods": [
            {"method": one.name, "score": one.score, "score_se": one.score_se, "gain": one.gain, "gain_se": one.gain_se}
            for one in blend.scored
        ],
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _PACKAGES}}


def _refuse_to_fit(method: str | None, calibration: Calibration) -> None:
    what = method if method and METHODS[method].learns else "temperature" if calibration == "temperature" else None
    if what:
        raise DataError(
            f"{what} has nothing to be fitted on: all rows were held out in one and the same fold",
            expected="two folds or more, so that what is fitted on one is scored on another; or a method that fits "
            "nothing: " + ", ".join(name for name, one in METHODS.items() if not one.learns),
            next_step="choose --method mean without --temperature, or train with more folds",
        )


def _fit(
    names: Sequence[str], members: Members, labels: Labels, metric: Metric, calibration: Calibration
) -> tuple[tuple[float, ...] | None, dict[str, Rule]]:
    """Temperatures first, then each method on the scaled members."""
    temperatures = None
    if calibration == "temperature":
        temperatures = tuple(fit_temperature(one, labels) for one in members)
        members = apply_temperatures(members, temperatures)
    return temperatures, {name: METHODS[name].fit(members, labels, metric) for name in names}


def _cross_fitted(
    names: Sequence[str], members: Members, aligned: Aligned, calibration: Calibration
) -> dict[str, Blended]:
    """By method: each fold's rows blended by what the other folds' rows taught."""
    found = {name: np.empty_like(members[0]) for name in names}
    numbers = np.unique(aligned.folds)
    for fold in numbers:
        held = aligned.folds == fold
        others = ~held if len(numbers) > 1 else held
        temperatures, rules = _fit(names, members[:, others], aligned.labels[others], aligned.metric, calibration)
        rows = members[:, held]
        if temperatures is not None:
            rows = apply_temperatures(rows, temperatures)
        for name, rule in rules.items():
            found[name][held] = rule.apply(rows)
    return found


def _judge(
    aligned: Aligned, found: dict[str, Blended], rules: dict[str, Rule]
) -> tuple[tuple[ScoredMethod, ...], str, str]:
    """Every method's score; the simplest within one standard error of the best (Breiman et al., 1984), and why."""
    # Methods in the order of METHODS, then members, whose names may be those of methods.
    members = {f"member {name}": one for name, one in aligned.probabilities.items()}
    blended, names = replace(aligned, probabilities={**found, **members}), list(found)
    sampled = sample(blended, _RESAMPLES)
    gains = [aligned.metric.gain(0.0, score) for score in sampled.scores]
    best_member = gains.index(max(gains[len(names) :]), len(names))

    def scored(number: int, name: str) -> ScoredMethod:
        score, error = float(sampled.scores[number]), sampled.score_se(number)
        gained = sampled.gain(number, best_member)
        return ScoredMethod(name, score, error, fold_scores(blended, name), *gained, rules[name].weights)

    gains = gains[: len(names)]
    best = gains.index(max(gains))  # of equals the simplest
    behind = [sampled.gain(best, number) for number in range(len(names))]
    chosen = next(number for number, (gap, error) in enumerate(behind) if gap <= error + _SAME)
    simplest = names[chosen]
    if chosen != best:
        gap, error = behind[chosen]
        better = f"{names[best]}, which is better by {gap:.4f} ± {error:.4f}"
        reason = f"the simplest within one standard error of the best, {better}"
    else:
        reason = "the best" if best == 0 else "the best, and no simpler one is within one standard error of it"
    if simplest == SIMPLEST:
        reason += "; blending gains nothing here that can be told from noise"
    return tuple(scored(number, name) for number, name in enumerate(names)), simplest, reason
