"""What training will cost, in words."""

import math

from pipeline.report.tables import Row, format_rows


def plan_rows(plan: Row) -> list[Row]:
    """One row a stage."""
    return [
        {
            "stage": stage["name"],
            "size": "×".join(map(str, stage["size"])),
            "unfrozen": f"{stage['unfrozen']}/{stage['blocks']}",
            "trained": stage["trainable_parameters"],
            "parameters": stage["parameters"],
            "MFLOPs": round(stage["flops"] / 1e6),
            "input/s": round(stage["input_rate"]),
            "train/s": round(stage["train_rate"]),
            "predict/s": round(stage["predict_rate"]),
            "bottleneck": stage["bottleneck"],
            "peak MB": round(stage["peak_bytes"] / 1e6),
            **({"GPU MB": round(stage["device_bytes"] / 1e6)} if stage["device_bytes"] is not None else {}),
            "s/epoch": round(stage["epoch_seconds"]),
            "epochs": stage["epochs"],
            "seconds": round(stage["seconds"]),
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
        "peak MB: with the workers",
        f"a fold: {_time(plan['fold_seconds'])}, of it {_time(plan['start_seconds'])} to start and "
        f"{_time(plan['final_seconds'])} for its predictions",
        f"decoding, once for all folds: {_time(plan['decode_seconds'])} (training pictures now lie decoded in runs/)",
        f"{folds}: {_time(plan['total_seconds'])}" + (", at most: stages may stop early" * plan["early_stopping"]),
        _sessions(plan),
    ]
    return "\n".join(lines)


def _sessions(plan: Row) -> str:
    limit, held = f"a session of {plan['session_hours']:g} h", plan["folds_a_session"]
    if plan["total_seconds"] <= plan["session_hours"] * 3600:
        return f"fits into {limit}"
    if held:
        sessions = math.ceil(plan["folds"] / held)
        return f"does not fit into {limit}, which holds {held} of {plan['folds']} folds: {sessions} sessions"
    stages = plan["stages_a_session"]
    if not stages:
        return f"not even the first stage of a fold fits into {limit}: take fewer epochs or a smaller size"
    return f"does not fit into {limit}, which holds no fold whole, but {stages} of its {len(plan['stages'])} stages"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
