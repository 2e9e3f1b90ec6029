"""The command serve: a page on this machine to drop pictures on."""

import signal
from typing import Annotated

import typer

from pipeline.cli.output import ROOT, CompetitionOption
from pipeline.cli.predict import FoldOption, RawOption


def serve(
    experiment: str,
    competition: CompetitionOption = None,
    fold: FoldOption = None,
    raw: RawOption = False,
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets others on the network in.")
    ] = "127.0.0.1",
) -> None:
    """Serve a local page that predicts the pictures dropped on it, with the fold models of an experiment.

    It runs until Ctrl-C, on this machine alone, and keeps no picture.

    Example: kit serve demo --port 8080
    """
    from pipeline.artifacts import Workspace
    from pipeline.predictions.store import find_experiment
    from pipeline.report.tables import calibration_text
    from pipeline.serve import address, build_app, listen, require_packages, run
    from pipeline.training.device import import_tensorflow_quietly
    from pipeline.training.predict import LoadedModels, fit_oof_temperature, read_fold_models

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    require_packages()
    workspace = Workspace(ROOT)
    slug, name = find_experiment(workspace, experiment, slug=competition)
    models = read_fold_models(workspace, slug, name, folds=fold)
    temperature = None if raw else fit_oof_temperature(models, workspace)
    said = calibration_text(temperature, raw=raw)
    with listen(host, port) as listening:
        folds = ", ".join(map(str, models.weights))
        print(f"loading {name} on {slug}, fold models {folds} …", flush=True)
        import_tensorflow_quietly()
        loaded = LoadedModels(models, temperature=None if temperature is None else temperature.value)
        manifest = models.stored.manifest
        facts = {
            "Fold models": f"{folds}; the mean of their probabilities" if len(models.weights) > 1 else folds,
            "Classes": f"{len(models.stored.classes):,}",
            "OOF": f"{manifest['metric']} {manifest['oof_score']:.4f} ± {manifest['oof_score_se']:.4f}",
            "Probabilities": said.removeprefix("probabilities "),
        }
        app = build_app(
            loaded.predict, classes=models.stored.classes, title=f"{name} on {slug}", facts=facts, host=host
        )
        print(said)
        if host not in {"127.0.0.1", "::1", "localhost"}:
            print(f"whoever reaches {host} may use it: there is no password")
        print(f"ready: {address(listening)}    Ctrl-C ends it", flush=True)
        run(app, listening)
    print("\nended; no picture was kept")
