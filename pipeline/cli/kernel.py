"""Commands about kernels: build, bundle, push, status, cancel, output, run."""

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import completion
from pipeline.cli.output import ROOT, CompetitionOption, connect, say_interrupted, server_meant
from pipeline.session import SESSION_HOURS

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.submit.kaggle_client import Kaggle
    from pipeline.submit.kernel import Built
    from pipeline.submit.kernel_run import Fetched
    from pipeline.submit.pushes import Pushed

Name = Annotated[
    str,
    typer.Argument(help="Folder in kernels/: train, predict, or one of your own.", autocompletion=completion.kernels),
]
Slug = Annotated[str | None, typer.Option(help="Which build of it; the newest by default.")]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="What to train; `demo` by default.", autocompletion=completion.recipes)
]
Experiment = Annotated[
    str | None, typer.Option(help="A finished experiment to predict with.", autocompletion=completion.experiments)
]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a setting of the recipe; may be repeated.")]
Fold = Annotated[list[int] | None, typer.Option(help="Train this fold alone; may be repeated.")]
Suffix = Annotated[str, typer.Option(help="Name the experiment RECIPE-SUFFIX.")]
Gpu = Annotated[bool | None, typer.Option("--gpu/--no-gpu", help="Both T4s, or none; as the template says.")]
Internet = Annotated[bool | None, typer.Option("--internet/--no-internet", help="As the template says.")]
Hours = Annotated[float, typer.Option(help="Kaggle's limit of a session.", min=0.005)]
DataFrom = Annotated[str | None, typer.Option(help="OWNER/SLUG of a data set that holds the competition's data.")]
Dataset = Annotated[list[str] | None, typer.Option(help="Attach this data set, too: OWNER/SLUG; may be repeated.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from what its last push finished.")]
Again = Annotated[bool, typer.Option("--again", help="Push even if the version before has not been fetched.")]
_QUIET = 60.0
"""Seconds without a line, at most, while a kernel runs."""

Only = Annotated[
    str | None, typer.Option(metavar="PATTERN", help="Download the files of this name alone, such as '*.csv'.")
]
Wait = Annotated[float, typer.Option(help="How many hours to wait for it.", min=0.0)]


def kernel_build(
    name: Name,
    recipe: RecipeOption = None,
    competition: CompetitionOption = None,
    experiment: Experiment = None,
    set_: Set = None,
    fold: Fold = None,
    suffix: Suffix = "kaggle",
    gpu: Gpu = None,
    internet: Internet = None,
    session_hours: Hours = SESSION_HOURS,
    data_from: DataFrom = None,
    dataset: Dataset = None,
    resume: Resume = False,
) -> None:
    """Make a folder that Kaggle can run: one code file with the package in it, and its metadata.

    Example: kit kernel build train --recipe progressive-b7 --competition cars
    """
    _build(
        name,
        recipe=recipe,
        competition=competition,
        experiment=experiment,
        overrides=set_ or [],
        folds=fold,
        suffix=suffix,
        gpu=gpu,
        internet=internet,
        session_hours=session_hours,
        data_from=data_from,
        datasets=dataset or [],
        resume=resume,
    )
    print(f"next: kit kernel bundle {name}, then: kit kernel push {name}")


def kernel_bundle(name: Name, slug: Slug = None) -> None:
    """Upload what a built kernel needs beside its code, as a private data set, and attach it.

    Example: kit kernel bundle predict
    """
    from pipeline.artifacts import Workspace
    from pipeline.submit.kernel import find_built

    built = find_built(name, slug, workspace=Workspace(ROOT))
    _bundle(connect(), built)
    print(f"next: kit kernel push {name}")


def kernel_push(name: Name, slug: Slug = None, again: Again = False) -> None:
    """Push a built kernel to Kaggle, which runs it.

    Example: kit kernel push train
    """
    from pipeline.artifacts import Workspace
    from pipeline.submit.kernel import find_built

    built = find_built(name, slug, workspace=Workspace(ROOT))
    _push(connect(), built, again=again)
    when = "next" if server_meant() == "kaggle.com" else "next, while the rehearsal runs"
    print(f"{when}: kit kernel status {name}, then: kit kernel output {name}")


def kernel_status(name: Name, slug: Slug = None) -> None:
    """Say how far a pushed kernel is.

    Example: kit kernel status train
    """
    kaggle, pushed = _find_pushed(name, slug)
    status = kaggle.kernel_status(pushed.ref, pushed.version)
    print(f"{pushed.ref} version {pushed.version}: {status.state}{': ' + status.failure if status.failure else ''}")
    print(pushed.url)


def kernel_cancel(name: Name, slug: Slug = None) -> None:
    """Say where a pushed kernel that runs can be cancelled: Kaggle's API does not name its session to programs.

    Example: kit kernel cancel train
    """
    from pipeline.errors import KitError

    kaggle, pushed = _find_pushed(name, slug)
    state = kaggle.kernel_status(pushed.ref, pushed.version).state
    if state not in ("QUEUED", "RUNNING", "NEW_SCRIPT"):
        print(f"{pushed.ref} version {pushed.version} does not run: {state}")
        return
    raise KitError(
        f"{pushed.ref} version {pushed.version} is {state}, and cannot be cancelled from here",
        expected="the number of its session, which Kaggle's API tells nobody",
        next_step=f"cancel it at {pushed.url}; `kit kernel status {name}` says when it has ended",
    )


def kernel_output(name: Name, slug: Slug = None, wait_hours: Wait = 0.0, only: Only = None) -> None:
    """Fetch the output of a pushed kernel that has ended: predictions into oof/, weights and logs into runs/.

    Exit codes are those of `kit kernel run`.

    Example: kit kernel output train
    """
    kaggle, pushed = _find_pushed(name, slug)
    if only is None:
        _finish(kaggle, pushed, hours=wait_hours)
        return
    from pipeline.artifacts import Workspace
    from pipeline.errors import counted
    from pipeline.submit.kernel_run import fetch_some

    _wait(kaggle, pushed, hours=wait_hours)
    count = fetch_some(kaggle, pushed, only, workspace=Workspace(ROOT), progress=True)
    print(f"fetched {counted(count, 'file', 'files')} into {pushed.output(Workspace(ROOT))}; nothing else was changed")


def kernel_run(
    name: Name,
    recipe: RecipeOption = None,
    competition: CompetitionOption = None,
    experiment: Experiment = None,
    set_: Set = None,
    fold: Fold = None,
    suffix: Suffix = "kaggle",
    gpu: Gpu = None,
    internet: Internet = None,
    session_hours: Hours = SESSION_HOURS,
    data_from: DataFrom = None,
    dataset: Dataset = None,
    resume: Resume = False,
    again: Again = False,
    wait_hours: Wait = 24.0,
) -> None:
    """Build, bundle where needed, push, wait, and fetch.

    Exit code: 0 finished, 3 the kernel failed, 4 it still runs, 5 no GPU to be had, 6 it stopped before its
    session's limit (go on with --resume), 1 anything else.

    Example: kit kernel run train --recipe progressive-b7 --competition cars
    """
    from pipeline.artifacts import Workspace
    from pipeline.submit.kernel_run import require_fetched
    from pipeline.submit.pushes import take_up

    built = _build(
        name,
        recipe=recipe,
        competition=competition,
        experiment=experiment,
        overrides=set_ or [],
        folds=fold,
        suffix=suffix,
        gpu=gpu,
        internet=internet,
        session_hours=session_hours,
        data_from=data_from,
        datasets=dataset or [],
        resume=resume,
    )
    kaggle = connect()
    take_up(kaggle, name, workspace=Workspace(ROOT), again=again)
    if not again:
        require_fetched(kaggle, built, workspace=Workspace(ROOT))
    _bundle(kaggle, built)
    _finish(kaggle, _push(kaggle, built, again=again), hours=wait_hours)


def _build(
    name: str,
    *,
    recipe: str | None,
    competition: str | None,
    experiment: str | None,
    overrides: list[str],
    folds: list[int] | None,
    suffix: str,
    gpu: bool | None,
    internet: bool | None,
    session_hours: float,
    data_from: str | None,
    datasets: list[str],
    resume: bool,
) -> "Built":
    from pipeline.artifacts import Workspace
    from pipeline.competition import load_competition
    from pipeline.predictions.manifests import find_experiment, read_manifest, require_networks
    from pipeline.recipe import load_recipe, parse_recipe
    from pipeline.submit.bundle import bundle_folder, needs_bundle
    from pipeline.submit.job import kernel_slug, predict_job, train_job
    from pipeline.submit.kernel import build_kernel, read_template
    from pipeline.submit.kernel_run import earlier_parts
    from pipeline.training.device import import_tensorflow_quietly

    workspace = Workspace(ROOT)
    template = read_template(name, workspace)
    online = bool(template.metadata.get("enable_internet")) if internet is None else internet
    options: dict[str, Any] = {"session_seconds": session_hours * 3600, "internet": online}
    if experiment or (name == "predict" and not recipe):
        if recipe or overrides or folds or resume:
            raise typer.BadParameter("--recipe, --set, --fold and --resume have no effect with a finished experiment")
        slug, found = find_experiment(workspace, experiment or "demo", slug=competition)
        described, manifest = load_competition(slug, root=ROOT), read_manifest(workspace, slug, found)
        require_networks(manifest)
        settings = parse_recipe(manifest["recipe"], source=f"of {found}")
        options["bundle"] = kernel_slug("kit", name, slug, found) + "-files"
        job = predict_job(manifest, described, **options)
    else:
        settings, slug = load_recipe(recipe or "demo", overrides=overrides), competition or "demo"
        described, chosen = load_competition(slug, root=ROOT), f"{settings.name}-{suffix}" if suffix else settings.name
        options["bundle"] = kernel_slug("kit", name, slug, chosen) + "-files"
        job = train_job(settings, described, experiment=chosen, folds=folds, **options)
    own = kernel_slug("kit", name, slug, job.experiment, *(f"fold-{number}" for number in folds or ()))
    sources: list[str] = []
    if resume:
        part, sources = earlier_parts(name, job, workspace=workspace, server=server_meant())
        own = f"{own}-part-{part}"
    if job.model is None and needs_bundle(job):
        import_tensorflow_quietly()  # Keras fetches published weights
    metadata: dict[str, Any] = {
        "id": f"OWNER/{own}",
        "title": own,
        "enable_internet": online,
        "competition_sources": [] if data_from else [slug],
        "dataset_sources": [*datasets, *([data_from] if data_from else [])],
        "kernel_sources": sources,
    }
    if gpu is not None:
        metadata |= {"enable_gpu": gpu, "machine_shape": "NvidiaTeslaT4" if gpu else ""}
    built = build_kernel(template, job, settings, described, workspace=workspace, metadata=metadata)
    size = built.code_file.stat().st_size
    print(f"built {built.folder}: {job.experiment} on {slug}, {built.code_file.name} of {size / 1000:.0f} kB")
    for source in sources:
        print(f"  goes on from {source}")
    if needs_bundle(built.job):
        files = sorted((bundle_folder(template.folder, built.job) / "files").iterdir())
        size = sum(file.stat().st_size for file in files)
        print(f"its bundle: {', '.join(file.name for file in files)} ({size / 1e6:.1f} MB)")
    return built


def _bundle(kaggle: "Kaggle", built: "Built") -> None:
    from pipeline.submit.bundle import bundle_folder, needs_bundle, upload

    if not needs_bundle(built.job):
        print("no bundle: the code file carries all it needs")
        return
    folder = bundle_folder(built.folder.parent.parent, built.job)
    ref = upload(kaggle, built.job, folder, progress=True)
    built.change(dataset_sources=sorted({*built.metadata.get("dataset_sources", []), ref}))
    print(f"the data set {ref} is ready on {kaggle.server}, and attached")


def _push(kaggle: "Kaggle", built: "Built", *, again: bool) -> "Pushed":
    from pipeline.artifacts import Workspace
    from pipeline.submit.kernel_run import push

    pushed = push(kaggle, built, workspace=Workspace(ROOT), again=again)
    print(f"pushed {pushed.ref} version {pushed.version} to {pushed.server}: {pushed.url}")
    return pushed


def _find_pushed(name: str, slug: str | None) -> "tuple[Kaggle, Pushed]":
    """What was pushed, also where its push was killed, and the connection to ask after it."""
    from pipeline.artifacts import Workspace
    from pipeline.submit.pushes import find_pushed, list_sending, take_up

    workspace = Workspace(ROOT)
    if list_sending(name, workspace=workspace, server=server_meant()):
        take_up(connect(), name, workspace=workspace)
    pushed = find_pushed(name, slug, workspace=workspace, server=server_meant())
    return connect(), pushed


def _finish(kaggle: "Kaggle", pushed: "Pushed", *, hours: float) -> None:
    """Wait for a kernel, fetch what it made, and say how it ended and what comes next."""
    from pipeline.errors import KitError
    from pipeline.submit.kernel_run import KernelFailed, KernelStopped, fetch_later

    try:
        _wait(kaggle, pushed, hours=hours)
    except KernelFailed:
        try:
            _fetch(kaggle, pushed)
        except KitError as error:
            print(f"its output could not be taken over: {error}")
        raise
    except KeyboardInterrupt as interrupt:
        say_interrupted(fetch_later(pushed), interrupt)
    fetched = _fetch(kaggle, pushed)
    if fetched.state == "stopped":
        raise KernelStopped(
            f"the kernel stopped before its session's limit: {fetched.message.splitlines()[0]}",
            expected="a session long enough for all folds",
            next_step=f"kit kernel run {pushed.name} --resume, with the same options",
        )
    if fetched.state != "finished":
        raise KernelFailed(
            f"the kernel ended, and did not finish its job: {fetched.message.splitlines()[0]}",
            expected="a kernel.json that says finished",
            next_step="mend what the log says, and run it again",
        )
    _tell_next(pushed)


def _wait(kaggle: "Kaggle", pushed: "Pushed", *, hours: float) -> None:
    """Wait for a kernel: a line for each state, and while it stays the same one a minute, or a clock on a terminal."""
    from time import monotonic, sleep

    from tqdm import tqdm

    from pipeline.submit.kernel_run import wait

    started, told, last = monotonic(), 0.0, ""
    with tqdm(bar_format="  {elapsed}  {desc}", leave=False, disable=not sys.stderr.isatty()) as clock:

        def tell(state: str) -> None:
            nonlocal told, last
            told, last = monotonic(), state
            with tqdm.external_write_mode():
                print(f"  {timedelta(seconds=round(told - started))}  {state}", flush=True)
            clock.set_description_str(state)

        def pause(seconds: float) -> None:
            sleep(seconds)
            if clock.disable and monotonic() - told >= _QUIET:
                tell(last)
            clock.refresh()

        wait(kaggle, pushed, seconds=hours * 3600, on_state=tell, sleep=pause)


def _tell_next(pushed: "Pushed") -> None:
    """What comes after a kernel that finished."""
    from pipeline.artifacts import Workspace
    from pipeline.predictions.manifests import folds_in_words, list_experiments, read_manifest

    slug, experiment, workspace = pushed.competition, pushed.experiment, Workspace(ROOT)
    csv_file = pushed.output(workspace) / "submission.csv"
    scored = (slug, experiment) in list_experiments(workspace, slug)
    if csv_file.is_file():
        print(f"next: kit submit {csv_file} --competition {slug}")
        print(f"in a code competition: kit submit --kernel {pushed.name}")
    elif scored:
        manifest = read_manifest(workspace, slug, experiment)
        trained = list(workspace.run(slug, experiment).glob("fold-*/fold.json"))
        if len(trained) > len(manifest["folds"]):
            print(f"{len(trained)} folds are here, and the result of {experiment} is of {folds_in_words(manifest)}")
            print(f"next: kit train RECIPE {slug} with the kernel's options joins them, and trains what is missing")
        elif manifest["missing_folds"]:
            print(f"next: kit kernel run {pushed.name} --resume, with its options but --fold, trains the other folds")
        print(f"next: kit oof list, then: kit submit {experiment} --competition {slug} --dry-run")


def _fetch(kaggle: "Kaggle", pushed: "Pushed") -> "Fetched":
    from pipeline.artifacts import Workspace
    from pipeline.submit.kernel_run import LOG, fetch

    output = pushed.output(Workspace(ROOT))
    try:
        fetched = fetch(kaggle, pushed, workspace=Workspace(ROOT), progress=True)
        print(f"fetched {fetched.output}")
        for folder in fetched.adopted:
            print(f"  now in {folder}")
    finally:
        if (output / LOG).is_file():
            print(f"\nthe end of its log, {output / LOG}:\n{_last_lines(output / LOG)}")
    return fetched


def _last_lines(log: "Path", count: int = 25) -> str:
    return "\n".join("  " + line for line in log.read_text("utf-8").rstrip().splitlines()[-count:])
