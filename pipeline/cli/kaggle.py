"""Commands that talk to Kaggle: download, submit, submissions."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import completion
from pipeline.cli.data import check_slug, init
from pipeline.cli.output import (
    ROOT,
    CompetitionOption,
    Format,
    FormatOption,
    at_server,
    competition_of,
    connect,
    require_competitions,
    say_interrupted,
    server_meant,
    show,
    warn_of_order,
)
from pipeline.errors import DataError, counted

if TYPE_CHECKING:
    from pipeline.submit.ledger import Entry
    from pipeline.submit.outgoing import Outgoing


def download(
    slug: Annotated[str, typer.Argument(help="The competition's name, as in its address on Kaggle.")],
    to: Annotated[Path | None, typer.Option(help="Folder for the data, if not competitions/SLUG/data.")] = None,
) -> None:
    """Download a competition's data, check it, unpack it, and describe the competition as `kit init` does.

    Example: kit download aerial-cactus-identification
    """
    from pipeline.artifacts import Workspace
    from pipeline.competition import competition_folder
    from pipeline.submit.download import download as download_data
    from pipeline.submit.download import holds_data

    check_slug(slug)
    folder = competition_folder(slug, root=ROOT)
    target = to or folder / "data"
    if to is None and holds_data(target):
        print(f"the data is there: {target}")
    else:
        kaggle = connect()
        print(f"downloading {slug} from {_called(kaggle.server)}")
        files = download_data(kaggle, slug, folder=target, workspace=Workspace(ROOT), progress=True)
        print(f"{files} files, whole and unpacked: {target}")
    if not (folder / "competition.yaml").is_file():
        print(f"\nkit init {slug} --data {target}")
        init(slug, data=target)
        return
    if not holds_data(folder / "data"):
        if (folder / "data").exists():
            (folder / "data").rmdir()
        (folder / "data").symlink_to(target.resolve())
    print(f"the competition is described already: {folder / 'competition.yaml'}, its data is {folder / 'data'}")


def submit(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="CSV|EXPERIMENT",
            help="A file, or an experiment's newest submission.",
            autocompletion=completion.experiments,
        ),
    ] = None,
    competition: CompetitionOption = None,
    message: Annotated[str, typer.Option(help="A note, instead of the experiment's name.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Even if this content was sent before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="All but sending; needs no account.")] = False,
    wait: Annotated[float, typer.Option(help="Minutes to wait for the score; 0: do not wait.", min=0)] = 15,
    sync: Annotated[bool, typer.Option("--sync", help="Ask what became of open submissions; sends nothing.")] = False,
    kernel: Annotated[
        str | None,
        typer.Option(
            help="Submit the pushed version of this kernel, in a code competition.", autocompletion=completion.kernels
        ),
    ] = None,
) -> None:
    """Submit a CSV, or an experiment, and wait for its score; submissions/COMPETITION/log.csv keeps account.

    What was sent before is refused. An interrupted wait is picked up with --sync. Exit code 4: not scored yet.

    Example: kit submit demo --dry-run
    """
    given = sum((target is not None, sync, kernel is not None))
    if given != 1:
        only = "only " if given else ""
        raise typer.BadParameter(f"give {only}one of: a CSV or an experiment, --sync, --kernel NAME")
    if sync and (message or again or dry_run):
        raise typer.BadParameter("--sync sends nothing: --message, --again and --dry-run have no effect with it")
    if kernel is not None and competition:
        raise typer.BadParameter("--competition has no effect with --kernel: a kernel is built for one")
    try:
        if sync:
            _sync(competition)
            return
        outgoing, send = _file_to_send(target, competition) if target else _kernel_to_send(str(kernel))
        if dry_run:
            _dry_run(outgoing, again=again)
        else:
            _send(outgoing, partial(send, message=message, again=again), again=again, minutes=wait)
    except KeyboardInterrupt as interrupt:
        say_interrupted("`kit submit --sync` asks what became of it, and sends nothing", interrupt)


def submissions(
    competition: Annotated[
        str | None, typer.Argument(help="Slug; all of them if left out.", autocompletion=completion.competitions)
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """List what was submitted: OOF beside the leaderboard, how well they agree, and a picture of it.

    Example: kit submissions demo
    """
    from pipeline.artifacts import Workspace
    from pipeline.competition import competition_folder, load_competition
    from pipeline.report.plots import plot_leaderboard
    from pipeline.report.tables import FEWEST, agreement_rows, format_rows, scored, submission_rows
    from pipeline.submit.ledger import COLUMNS, OPEN, Ledger, list_ledgers

    workspace = Workspace(ROOT)
    if competition and competition not in list_ledgers(workspace):
        load_competition(competition, root=ROOT)  # a misspelt slug is not an empty list
    ledgers = [Ledger(workspace, slug) for slug in ([competition] if competition else list_ledgers(workspace))]
    entries = [{"competition": ledger.slug, **asdict(entry)} for ledger in ledgers for entry in ledger.read()]
    pictures = []
    for ledger in ledgers:
        slug, described = ledger.slug, competition_folder(ledger.slug, root=ROOT) / "competition.yaml"
        own = [entry for entry in entries if entry["competition"] == slug]
        shown = {entry["tag"]: entry for board in ("public", "private") for entry in scored(own, board)}
        if shown:
            pictures.append(ledger.folder / "leaderboard.png")
            if _is_newer(pictures[-1], ledger.path, described):
                continue
            metric = load_competition(slug, root=ROOT).metric if described.is_file() else "score"
            plot_leaderboard(list(shown.values()), pictures[-1], title=f"submissions to {slug}", metric=metric)
    if format is not Format.table:
        if format is Format.csv and not entries:
            print(",".join(("competition", *COLUMNS)))  # a table without rows
        else:
            show(entries, format)
        return
    if not entries:
        print("nothing submitted yet; try: kit submit EXPERIMENT --dry-run")
        return
    print(format_rows(submission_rows(entries), "table"))
    for entry in entries:
        if entry["status"] not in ("COMPLETE", "PENDING") and entry["message"]:
            print(f"{entry['status']} {entry['time']}: {entry['message']}")
    agreement = agreement_rows(entries)
    if any(row["n"] >= FEWEST for row in agreement):
        print("\nhow far OOF ranks the submissions as the leaderboard does (1: the same order, 0: no relation):")
        print(format_rows(agreement, "table"))
    elif agreement:
        print(f"\ncomparing how OOF and the leaderboard rank submissions needs {FEWEST} different scored files")
    for picture in pictures:
        print(f"\npicture: {picture}")
    unsettled = {(entry["competition"], entry["server"]) for entry in entries if entry["status"] in OPEN}
    asks = {at_server(server, "kit submit --sync", competition=slug) for slug, server in unsettled}
    for ask in sorted(asks):
        print(f"\nnot settled yet; ask: {ask}")


def _is_newer(made: Path, *sources: Path) -> bool:
    """Whether it is there, and none of what it is made of was written since."""
    written = [source.stat().st_mtime for source in sources if source.is_file()]
    return made.is_file() and made.stat().st_mtime > max(written)


def _file_to_send(target: str, competition: str | None) -> "tuple[Outgoing, Callable[..., Entry]]":
    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.predictions.manifests import find_experiment

    require_competitions()
    workspace, path, name = Workspace(ROOT), Path(target), ""
    if path.suffix.lower() == ".csv" or path.is_file():
        slug = competition or competition_of(path)
    else:
        slug, name = find_experiment(workspace, target, slug=competition)
    described = load_competition(slug, root=ROOT)

    from pipeline.submit.outgoing import outgoing_experiment, outgoing_file
    from pipeline.submit.send import submit_file

    if name:
        outgoing = outgoing_experiment(described, name, workspace=workspace, now=datetime.now())
    else:
        outgoing = outgoing_file(described, path, workspace=workspace)
    return outgoing, partial(submit_file, path=Path(outgoing.file))


def _kernel_to_send(name: str) -> "tuple[Outgoing, Callable[..., Entry]]":
    from pipeline.artifacts import Workspace
    from pipeline.predictions.manifests import list_experiments
    from pipeline.predictions.store import read_experiment
    from pipeline.submit.outgoing import outgoing_kernel
    from pipeline.submit.pushes import find_pushed, list_sending
    from pipeline.submit.send import submit_kernel

    workspace = Workspace(ROOT)
    if list_sending(name, workspace=workspace, server=server_meant()):
        raise DataError(
            f"it is not known what became of the last push of {name}",
            expected="a version that is known",
            next_step=f"kit kernel status {name} finds out",
        )
    pushed = find_pushed(name, None, workspace=workspace, server=server_meant())
    key = (pushed.competition, pushed.experiment)
    experiment = read_experiment(workspace, *key) if key in list_experiments(workspace) else None
    outgoing = outgoing_kernel(key[0], pushed.ref, pushed.version, sha256=pushed.sha256, experiment=experiment)
    return outgoing, partial(submit_kernel, kernel=pushed.ref, version=pushed.version, file_name="submission.csv")


def _dry_run(outgoing: "Outgoing", *, again: bool) -> None:
    from pipeline.artifacts import Workspace
    from pipeline.submit.ledger import Ledger

    _show_outgoing(outgoing, server_meant())
    ledger = Ledger(Workspace(ROOT), outgoing.slug)
    ledger.refuse_repeated(ledger.read(), outgoing.sha256, server=server_meant(), again=again)
    print("\nnothing was sent: a dry run (whether a submission is left today only Kaggle knows)")


def _send(outgoing: "Outgoing", send: "Callable[..., Entry]", *, again: bool, minutes: float) -> None:
    from pipeline.artifacts import Workspace
    from pipeline.submit.ledger import Ledger
    from pipeline.submit.send import preflight, wait_for_score

    ledger = Ledger(Workspace(ROOT), outgoing.slug)
    ledger.refuse_repeated(ledger.read(), outgoing.sha256, server=server_meant(), again=again)
    kaggle = connect()
    limits = preflight(kaggle, outgoing.slug, kernel=not outgoing.rows)
    _show_outgoing(outgoing, kaggle.server)
    print(f"{'left today':<12}{limits.left}, this one included")
    entry = send(kaggle, ledger, outgoing)
    print(f"\nsent: submission {entry.ref} of {kaggle.user}; its row is in {ledger.path}")
    if not minutes:
        print("not waiting for the score; ask later: kit submit --sync")
        return
    print(f"waiting for the score, up to {counted(minutes, 'minute', 'minutes')} (Ctrl-C loses nothing)")
    print(_scores(wait_for_score(kaggle, ledger, entry, minutes=minutes)))
    print(f"next: kit submissions {outgoing.slug}")


def _sync(competition: str | None) -> None:
    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.submit.ledger import OPEN, Ledger, list_ledgers
    from pipeline.submit.send import StillOpen, require_score
    from pipeline.submit.sync import is_asked, sync

    workspace = Workspace(ROOT)
    if competition and competition not in list_ledgers(workspace):
        load_competition(competition, root=ROOT)
    ledgers = [Ledger(workspace, slug) for slug in ([competition] if competition else list_ledgers(workspace))]
    here, rows = server_meant(), [(ledger, entry) for ledger in ledgers for entry in ledger.read()]
    for ledger, entry in rows:
        if entry.server != here and entry.status in OPEN:
            ask = at_server(entry.server, "kit submit --sync", competition=ledger.slug)
            print(f"{entry.file}: left alone, it was sent to {entry.server}; ask there: {ask}")
    asked = dict.fromkeys(ledger for ledger, entry in rows if is_asked(entry, here))
    kaggle = connect() if asked else None
    found = [sync(kaggle, ledger) for ledger in asked if kaggle]
    if not any(synced.settled or synced.open for synced in found):
        print(f"nothing is open: every submission to {_called(here)} is settled")
        return
    settled = [entry for synced in found for entry in synced.settled]
    still_open = [entry for synced in found for entry in synced.open]
    for entry in settled:
        print(f"{entry.file}: {entry.status}\n  {_scores(entry)}")
    for entry in still_open:
        print(f"{entry.file}: {_openness(entry)}")
    for entry in settled:
        require_score(entry)
    if still_open:
        raise StillOpen(
            f"{counted(len(still_open), 'submission is', 'submissions are')} not settled yet",
            expected="a score for each",
            next_step="ask again in a while: kit submit --sync",
        )


def _openness(entry: "Entry") -> str:
    from pipeline.submit.ledger import Status
    from pipeline.submit.sync import LOST_AFTER

    lost = datetime.fromisoformat(entry.time) + LOST_AFTER
    if entry.status is not Status.SENDING:
        return f"{entry.status}, sent {entry.time}"
    if lost < datetime.now(UTC):
        return f"another process is sending it, since {entry.time}"
    after = f"{LOST_AFTER.seconds // 60} minutes after sending"
    return f"not seen by the server; counted as never arrived at {lost:%H:%M} UTC ({after})"


def _show_outgoing(outgoing: "Outgoing", server: str) -> None:
    facts = {
        "competition": outgoing.slug,
        "server": _called(server),
        "file" if outgoing.rows else "kernel": outgoing.file,
        "rows": str(outgoing.rows),
        "sha256": outgoing.sha256,
        "experiment": outgoing.experiment or "not known",
        "OOF score": _oof(outgoing.oof_score, outgoing.oof_score_se),
        **({"folds": outgoing.folds} if " of " in outgoing.folds else {}),
    }
    for name, value in facts.items():
        if name != "rows" or outgoing.rows:
            print(f"{name:<12}{value}")
    if outgoing.order:
        warn_of_order(outgoing.order)


def _scores(entry: "Entry") -> str:
    if entry.status != "COMPLETE":
        return entry.message or str(entry.status)
    public, private = (
        "none yet" if score is None else f"{score:.4f}" for score in (entry.public_score, entry.private_score)
    )
    return f"public {public}, private {private}, OOF {_oof(entry.oof_score, entry.oof_score_se)}"


def _oof(score: float | None, error: float | None) -> str:
    if score is None:
        return "not known"
    return f"{score:.4f}" if error is None else f"{score:.4f} ± {error:.4f}"


def _called(server: str) -> str:
    return "rehearsal (a server on this machine; nothing leaves it)" if server == "rehearsal" else server
