"""The command serve: a page on this machine to drop pictures on."""

from typing import Annotated

import typer

from pipeline.cli.output import CompetitionOption, ExperimentArgument
from pipeline.cli.predict import FoldOption, RawOption, read_models


def serve(
    experiment: ExperimentArgument,
    competition: CompetitionOption = None,
    fold: FoldOption = None,
    raw: RawOption = False,
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets others on the network in.")
    ] = "127.0.0.1",
) -> None:
    """Serve a local page that predicts the pictures dropped on it, with the fold models of an experiment.

    It runs until Ctrl-C, for this machine alone where --host does not say otherwise, and keeps no picture.

    Example: kit serve demo --port 8080
    """
    from pipeline.serve import address, build_app, listen, on_every_address, require_packages, run

    require_packages()
    models, temperature, said = read_models(experiment, competition=competition, folds=fold, raw=raw)

    from pipeline.training.device import import_tensorflow_quietly
    from pipeline.training.predict import LoadedModels

    with listen(host, port) as listening:
        folds, title = ", ".join(map(str, models.weights)), f"{models.stored.name} on {models.stored.slug}"
        print(f"loading {title}, fold models {folds} …", flush=True)
        import_tensorflow_quietly()
        loaded = LoadedModels(models, temperature=temperature)
        manifest = models.stored.manifest
        facts = {
            "Fold models": f"{folds}; the mean of their probabilities" if len(models.weights) > 1 else folds,
            "Classes": f"{len(models.stored.classes):,}",
            "OOF": f"{manifest['metric']} {manifest['oof_score']:.4f} ± {manifest['oof_score_se']:.4f}",
            "Probabilities": said,
        }
        app = build_app(loaded.predict, classes=models.stored.classes, title=title, facts=facts, host=host)
        print(f"probabilities {said}")
        if on_every_address(host):
            print("whoever reaches this machine may use it, by its IP address, not by its name: there is no password")
        elif host not in {"127.0.0.1", "::1", "localhost"}:
            print(f"whoever reaches {host} may use it: there is no password")
        print(f"ready: {address(listening)}    Ctrl-C ends it", flush=True)
        run(app, listening)
    print("\nended; no picture was kept")
