"""The command `kit`: parse, one call, print. The only package that prints or exits.

Each module holds some commands as plain functions; here is the list of them all.
"""

import io
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from pipeline.cli.ablate import ablate
from pipeline.cli.backbones import backbones
from pipeline.cli.blend import blend
from pipeline.cli.compare import oof_compare
from pipeline.cli.data import demo, folds, init
from pipeline.cli.doctor import doctor
from pipeline.cli.explore import explore
from pipeline.cli.export import export
from pipeline.cli.kaggle import download, submissions, submit
from pipeline.cli.kernel import (
    kernel_build,
    kernel_bundle,
    kernel_cancel,
    kernel_output,
    kernel_push,
    kernel_run,
    kernel_status,
)
from pipeline.cli.lr_find import lr_find
from pipeline.cli.output import reports_errors
from pipeline.cli.predict import predict
from pipeline.cli.pseudo import pseudo_label
from pipeline.cli.rehearse import rehearse
from pipeline.cli.report import report
from pipeline.cli.results import oof_list, submission_check, submission_make
from pipeline.cli.serve import serve
from pipeline.cli.train import train

# Everything but Typer is imported inside the commands, what is heavy after their arguments are checked: help and
# errors must not wait for pandas or TensorFlow. Nor for Rich, which takes as long as the rest: no markup mode.

app = typer.Typer(
    name="kit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 120},  # where the terminal has them: 80 cut the commands' lines short
)
oof_app = typer.Typer(help="Out-of-fold results of the experiments.\n\nExample: kit oof list", no_args_is_help=True)
submission_app = typer.Typer(help="Submission files.\n\nExample: kit submission make demo", no_args_is_help=True)
app.add_typer(oof_app, name="oof")
kernel_app = typer.Typer(
    help="Training and predicting on Kaggle.\n\nExample: kit kernel run train", no_args_is_help=True
)
app.add_typer(submission_app, name="submission")
app.add_typer(kernel_app, name="kernel")

for group, name, command in (
    (app, "doctor", doctor),
    (app, "demo", demo),
    (app, "init", init),
    (app, "explore", explore),
    (app, "folds", folds),
    (app, "backbones", backbones),
    (app, "lr-find", lr_find),
    (app, "train", train),
    (app, "ablate", ablate),
    (app, "predict", predict),
    (app, "serve", serve),
    (app, "blend", blend),
    (app, "pseudo-label", pseudo_label),
    (app, "report", report),
    (app, "export", export),
    (oof_app, "list", oof_list),
    (oof_app, "compare", oof_compare),
    (submission_app, "make", submission_make),
    (submission_app, "check", submission_check),
    (app, "download", download),
    (app, "submit", submit),
    (app, "submissions", submissions),
    (app, "rehearse", rehearse),
    (kernel_app, "build", kernel_build),
    (kernel_app, "bundle", kernel_bundle),
    (kernel_app, "push", kernel_push),
    (kernel_app, "status", kernel_status),
    (kernel_app, "cancel", kernel_cancel),
    (kernel_app, "output", kernel_output),
    (kernel_app, "run", kernel_run),
):
    group.command(name)(reports_errors(command))


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"kit {version('kaggle-image-kit')}")
        raise typer.Exit


@app.callback()
def kit(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the kit's version and exit.")
    ] = False,
) -> None:
    """From an empty folder to a place on the leaderboard, honestly measured on the way.

    Example: kit demo, then: kit train demo demo
    """


def main() -> None:
    """Entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # in a log, too, a line is there when it is written
    app()
