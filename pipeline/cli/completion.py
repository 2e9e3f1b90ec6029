"""What the shell offers where a name is asked for: read from folders alone, as each Tab waits for it."""

from importlib import resources
from pathlib import Path

import typer


def competitions() -> list[str]:
    from pipeline.competition import list_competitions

    return list_competitions(Path())


def recipes() -> list[str]:
    """The shipped recipes, and the YAML files that lie here."""
    shipped = (file.name for file in (resources.files("pipeline") / "recipes").iterdir())
    names = sorted(name.removesuffix(".yaml") for name in shipped if name.endswith(".yaml"))
    return names + sorted(file.name for file in Path().glob("[!.]*.yaml"))


def experiments(context: typer.Context) -> list[str]:
    """Those that have a result, of the competition that is named before, if one is."""
    from pipeline.artifacts import Workspace
    from pipeline.predictions.manifests import list_experiments

    return sorted({name for _, name in list_experiments(Workspace(Path()), context.params.get("competition"))})


def kernels() -> list[str]:
    return sorted(file.parent.name for file in Path().glob("kernels/*/kernel-metadata.json"))
