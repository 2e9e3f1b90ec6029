"""What training will cost, in words."""

import math

from pipeline.errors import duration
from pipeline.report.tables import Measured, Row, format_rows


def plan_rows(plan: Row) -> list[Row]:
    """One row a stage."""
    return [
        {
            "stage": stage["name"],
            "size": "×".join(map(str, stage["size"])),
            "unfrozen": f"{stage['unfrozen']}/{stage['blocks']}",
            "trained": stage["trainable_parameters"],
            "parameters": stage["parameters"],
            "MFLOPs": Measured(stage["flops"] / 1e6),
            "input/s": Measured(stage["input_rate"]),
            "train/s": Measured(stage["train_rate"]),
            "predict/s": Measured(stage["predict_rate"]),
            "bottleneck": stage["bottleneck"],
            "peak MB": Measured(stage["peak_bytes"] / 1e6),
            **({"GPU MB": Measured(stage["device_bytes"] / 1e6)} if stage["device_bytes"] is not None else {}),
            "s/epoch": Measured(stage["epoch_seconds"]),
            "epochs": stage["epochs"],
            "seconds": Measured(stage["seconds"]),
        }
        for stage in plan["stages"]
    ]


def plan_text(plan: Row) -> str:
    """The stages of one fold, what all folds take, and how that goes into sessions."""
    folds = f"{plan['folds']} fold" + ("s" if plan["folds"] > 1 else "")
    lines = [
        format_rows(plan_rows(plan), "table"),
        "",
        "/s: pictures a second of the input alone, of training and of prediction; MFLOPs: of one picture forwards; "
        "peak MB: with the workers, of this stage",
        f"a fold: {duration(plan['fold_seconds'])}, of it {duration(plan['start_seconds'])} to start and "
        f"{duration(plan['final_seconds'])} for its predictions",
        _decoding(plan),
        f"{folds}: about {duration(plan['total_seconds'])}"
        + (", less where stages stop early" * plan["early_stopping"]),
        _sessions(plan),
    ]
    return "\n".join(lines)


def _decoding(plan: Row) -> str:
    features = sum(stage["feature_seconds"] for stage in plan["stages"])
    once = f"decoding, once for all folds: {duration(plan['decode_seconds'] - features)}"
    if features:
        once = f"features of the frozen backbone, once for all folds: {duration(features)}\n{once}"
    without = [stage["name"] for stage in plan["stages"] if not stage["kept"]]
    if not without:
        return f"{once} (training pictures now lie decoded in runs/)"
    return (
        f"{once}; --cache-gb has no room to keep the pictures of stage {' and '.join(without)}: "
        "they are decoded in every fold or epoch anew, which is in the seconds above"
    )


def _sessions(plan: Row) -> str:
    share = f"{100 * plan['session_share']:.0f} % of it: there the kit's kernel stops"
    limit, held = f"a session of {plan['session_hours']:g} h ({share})", plan["folds_a_session"]
    if held >= plan["folds"]:
        return f"fits into {limit}"
    if held:
        sessions = math.ceil(plan["folds"] / held)
        return f"does not fit into {limit}, which holds {held} of {plan['folds']} folds: {sessions} sessions"
    stages = plan["stages_a_session"]
    if not stages:
        return f"not even the first stage of a fold fits into {limit}: take fewer epochs or a smaller size"
    return f"does not fit into {limit}, which holds no fold whole, but {stages} of its {len(plan['stages'])} stages"
