"""Kernels really run: in a folder of their own, without this machine's ways, and with nothing left afterwards."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.rehearsal.kernel import KernelResult
from pipeline.rehearsal.sandbox import Sandbox, _namespaces, _packages

PYTHON = Path(sys.executable)
ALLOWED = {internet: _namespaces(PYTHON, internet)[0] for internet in (True, False)}
needs_mounts = pytest.mark.skipif("--mount" not in ALLOWED[True], reason="needs mount namespaces")
BOTH = pytest.mark.parametrize("isolate", [pytest.param(True, marks=needs_mounts), False])
KIT = Path(__file__).resolve().parents[2]
HOST_KAGGLE = Path("/kaggle").exists()

Runs = Callable[..., KernelResult]


@pytest.fixture
def run(tmp_path: Path) -> Runs:
    """Runs the text of a script in the folder `session`."""

    def start(text: str, *, isolate: bool = True, python: Path = PYTHON, **options: Any) -> KernelResult:
        script = tmp_path / "pushed.py"
        script.write_text(textwrap.dedent(text), "utf-8")
        settings = {"inputs": {}, "internet": True, "cancelled": threading.Event(), "seconds": 60.0, **options}
        return Sandbox(python, isolate)(script, folder=tmp_path / "session", **settings)

    return start


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "a.txt").write_text("given")
    return folder


@BOTH
def test_a_kernel_finds_kaggles_folders_and_leaves_its_output(
    run: Runs, data: Path, tmp_path: Path, isolate: bool
) -> None:
    text = """
        import os, sys
        from pathlib import Path
        root = Path(os.environ["KAGGLE_ROOT"])
        assert Path.cwd() == root / "working", Path.cwd()
        assert Path(__file__) == root / "src" / "script.py" == Path(sys.argv[0])
        found = (root / "input" / "competitions" / "tiny" / "train" / "a.txt").read_text()
        assert (root / "input" / "datasets" / "me" / "more" / "a.txt").exists() is False
        Path("result.txt").write_text(f"{found} {__name__} {root} {os.environ['KAGGLE_KERNEL_RUN_TYPE']}")
    """
    other = tmp_path / "more"
    other.mkdir()
    result = run(text, isolate=isolate, inputs={"competitions/tiny": data, "datasets/me/more": other})
    root = "/kaggle" if isolate else str(tmp_path / "session")
    assert (result.state, result.failure) == ("COMPLETE", ""), result.log
    assert result.output == tmp_path / "session" / "working"
    assert (result.output / "result.txt").read_text() == f"given __main__ {root} Batch"
    assert ("mounted as /kaggle" if isolate else str(tmp_path / "session")) in result.log.splitlines()[0]
    assert 0 < result.seconds < 30
    assert Path("/kaggle").exists() == HOST_KAGGLE
    assert (data / "train" / "a.txt").read_text() == "given"


@needs_mounts
def test_inputs_cannot_be_written_to(run: Runs, data: Path) -> None:
    text = """
        import errno
        from pathlib import Path
        folder = Path("/kaggle/input/competitions/tiny")
        for action in (
            lambda: (folder / "new.txt").write_text("x"),
            lambda: (folder / "train" / "a.txt").write_text("x"),
            lambda: (folder / "train" / "a.txt").unlink(),
        ):
            try:
                action()
            except OSError as error:
                print(errno.errorcode[error.errno])
            else:
                print("written")
    """
    result = run(text, inputs={"competitions/tiny": data})
    assert result.log.splitlines()[2:] == ["EROFS"] * 3
    assert [path.name for path in data.rglob("*")] == ["train", "a.txt"]


def test_what_the_script_prints_is_the_log_in_its_order(run: Runs) -> None:
    text = """
        import os, subprocess, sys
        print("one")
        print("two: Größe 画像", file=sys.stderr)
        sys.stdout.write("three\\n")
        subprocess.run(["echo", "four"])
        os.write(2, b"five \\xff\\n")
        print("six", end="")
    """
    lines = run(text).log.splitlines()[2:]
    assert lines == ["one", "two: Größe 画像", "three", "four", "five \ufffd", "six"]


def test_the_log_grows_while_the_script_runs(run: Runs, tmp_path: Path) -> None:
    seen, log = [], tmp_path / "session" / "log.txt"
    cancelled = threading.Event()

    def watch() -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end and not (log.exists() and "begun" in log.read_text()):
            time.sleep(0.02)
        seen.append(log.read_text())
        cancelled.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = run("import time\nprint('begun')\ntime.sleep(60)\nprint('ended')", cancelled=cancelled)
    watcher.join()
    assert "begun" in seen[0]
    assert result.state == "CANCEL_ACKNOWLEDGED"
    assert "ended" not in result.log


@BOTH
def test_nothing_of_this_machines_environment_gets_in(
    run: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolate: bool
) -> None:
    secret = "the-secret"
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "PYTHONPATH", "https_proxy", "HTTP_PROXY", "no_proxy", "VERBOSE"):
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    text = """
        import os, sys, tempfile
        from pathlib import Path
        print(sorted(os.environ))
        print(os.environ["TF_NUM_INTRAOP_THREADS"], os.environ["PATH"])
        print([path for path in sys.path if "secret" in path], "the" + "-secret" in str(os.environ))
        assert Path.home().is_relative_to(os.environ["KAGGLE_ROOT"]) and Path.home().is_dir()
        tempfile.mkdtemp()
        print(sys.stdin.read() == "")
    """
    result = run(text, isolate=isolate)
    names, kept, leaked, no_input = result.log.splitlines()[2:]
    allowed = {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"}
    allowed |= {"OMP_NUM_THREADS", "HOME", "TMPDIR", "KAGGLE_ROOT", "KAGGLE_KERNEL_RUN_TYPE"}
    for name in eval(names):
        assert name in allowed or name.startswith("TF_"), name
    assert kept == f"3 {os.environ['PATH']}"
    assert leaked == "[] False"
    assert no_input == "True"
    assert not (tmp_path / "session" / "tmp").exists()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A Python with a package `helper`, a regular `pipeline`, and a .pth file that brings the repository."""
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    python = home / "bin" / "python"
    (folder,) = (Path(name) for name in _packages(python) if Path(name).is_relative_to(home))
    for name in ("pipeline", "helper"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("place = 'installed'\n")
    (folder / "kit.pth").write_text(f"{KIT}\n")
    return python


@BOTH
def test_the_kit_of_this_machine_cannot_be_imported(run: Runs, installed: Path, isolate: bool) -> None:
    text = f"""
        import sys
        import helper
        print(helper.place, {str(KIT)!r} in sys.path)
        for more in ([], [{str(KIT)!r}]):
            sys.path[:0] = more
            try:
                import pipeline
            except ModuleNotFoundError as error:
                print(error.name, "not on Kaggle" in str(error))
    """
    result = run(text, python=installed, isolate=isolate)
    assert result.log.splitlines()[2:] == ["installed False", "pipeline True", "pipeline True"]
    # Without .pth files and a regular package, as where the kit is installed editable: as if it were not there.
    assert "No module named 'pipeline'" in run("import pipeline", isolate=isolate).failure


@BOTH
def test_a_package_that_the_kernel_brings_works_in_its_spawned_processes(
    run: Runs, installed: Path, isolate: bool
) -> None:
    text = """
        import multiprocessing, sys, tempfile
        from pathlib import Path

        if __name__ == "__main__":
            folder = Path(tempfile.mkdtemp()) / "package"
            (folder / "pipeline").mkdir(parents=True)
            (folder / "pipeline" / "__init__.py").write_text("place = 'embedded'")
            sys.path.insert(0, str(folder))

        def work(number):
            import helper, pipeline
            return pipeline.place, helper.place, number, sys.flags.isolated, sys.flags.no_site

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(work, [7]))
            print(work(8))
    """
    result = run(text, python=installed, isolate=isolate, internet=False)
    assert result.log.splitlines()[2:] == [
        "[('embedded', 'installed', 7, 1, 1)]",
        "('embedded', 'installed', 8, 1, 1)",
    ]


@pytest.fixture
def listener() -> Any:
    """The address of a server on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


REACH = """
import socket, sys
try:
    socket.create_connection(({host!r}, {port}), timeout=5).close()
    print("reached")
except OSError:
    print("not reached")
with socket.create_server(("127.0.0.1", 0)) as own:
    socket.create_connection(own.getsockname(), timeout=5).close()
    print("itself")
"""


@pytest.mark.skipif("--net" not in ALLOWED[False], reason="needs network namespaces")
def test_without_internet_nothing_is_reached(run: Runs, listener: Any) -> None:
    result = run(REACH.format(host=listener[0], port=listener[1]), internet=False)
    assert result.log.splitlines()[1:] == ["Rehearsal: the network is blocked", "not reached", "itself"]


@BOTH
def test_with_internet_the_network_is_there(run: Runs, listener: Any, isolate: bool) -> None:
    result = run(REACH.format(host=listener[0], port=listener[1]), isolate=isolate)
    assert result.log.splitlines()[1:] == ["Rehearsal: the network is allowed", "reached", "itself"]


def test_a_network_that_could_not_be_blocked_is_not_said_to_be(run: Runs, listener: Any) -> None:
    result = run(REACH.format(host=listener[0], port=listener[1]), isolate=False, internet=False)
    assert result.log.splitlines()[1].startswith("Rehearsal: network could not be blocked here: ")
    assert "reached" in result.log.splitlines()


# A process of a session of its own that writes on for as long as it lives; `{then}` is what its parent does.
DETACHED = """
import os, subprocess, sys, time
beat = '''
import os, time
if os.fork():
    os._exit(0)
os.setsid()
while True:
    with open("beats", "a") as file:
        file.write("x")
    time.sleep(0.02)
'''
subprocess.Popen([sys.executable, "-c", beat], start_new_session=True, env={{}})
while not os.path.exists("beats"):
    time.sleep(0.01)
{then}
"""


def beats_go_on(folder: Path) -> bool:
    """Whether the detached process still writes."""
    file = folder / "working" / "beats"
    before = file.stat().st_size
    time.sleep(0.3)
    return file.stat().st_size > before


@BOTH
def test_a_session_over_its_limit_is_ended_with_all_its_processes(run: Runs, tmp_path: Path, isolate: bool) -> None:
    began = time.monotonic()
    result = run(DETACHED.format(then="time.sleep(60)"), isolate=isolate, seconds=1.5)
    assert (result.state, result.failure) == ("ERROR", "session limit of 1.5 s exceeded")
    assert 1.5 <= result.seconds < 10
    assert time.monotonic() - began < 15
    assert not beats_go_on(tmp_path / "session")


@BOTH
@pytest.mark.parametrize(("then", "state"), [("pass", "COMPLETE"), ("os.kill(os.getpid(), 9)", "ERROR")])
def test_what_a_script_leaves_running_ends_with_it(
    run: Runs, tmp_path: Path, isolate: bool, then: str, state: str
) -> None:
    result = run(DETACHED.format(then=then), isolate=isolate)
    assert result.state == state
    assert not beats_go_on(tmp_path / "session")


@BOTH
def test_nothing_outlives_whoever_started_it(tmp_path: Path, isolate: bool) -> None:
    """The rehearsal itself killed: the session ends, too."""
    (tmp_path / "pushed.py").write_text(DETACHED.format(then="time.sleep(60)"))
    code = (
        "import sys, threading; from pathlib import Path; from pipeline.rehearsal.sandbox import Sandbox\n"
        f"Sandbox(isolate={isolate})(Path('pushed.py'), inputs={{}}, folder=Path('session'), internet=True,"
        " cancelled=threading.Event(), seconds=60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(KIT)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment) as process:
        end = time.monotonic() + 30
        while not (tmp_path / "session" / "working" / "beats").exists():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    time.sleep(0.5)
    assert not beats_go_on(tmp_path / "session")


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("print('before')\nraise ValueError('no such card')", "exit code 1: ValueError: no such card"),
        ("import sys\nprint('nothing to do')\nprint()\nsys.exit(3)", "exit code 3: nothing to do"),
        ("import os\nos._exit(4)", "exit code 4"),
        ("exit(5)", "exit code 5"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", "exit code 143 (killed by signal 15)"),
        ("import os\nos.abort()", "exit code 134 (killed by signal 6)"),
        ("this is no Python", "exit code 1: SyntaxError: invalid syntax"),
    ],
)
def test_a_script_that_fails_is_an_error_with_its_last_words(run: Runs, text: str, failure: str) -> None:
    result = run(text)
    assert (result.state, result.failure) == ("ERROR", failure)


def test_a_traceback_names_the_line_of_the_script(run: Runs) -> None:
    log = run("def broken():\n    return 1 / 0\n\nbroken()").log
    assert 'script.py", line 2, in broken' in log
    assert str(KIT) not in log


@BOTH
def test_folders_are_not_deleted_through_links(run: Runs, data: Path, tmp_path: Path, isolate: bool) -> None:
    text = f"""
        import os
        root = os.environ["KAGGLE_ROOT"]
        os.rmdir(root + "/tmp")
        os.symlink({str(data)!r}, root + "/tmp")
        os.symlink({str(data)!r}, root + "/working/link")
    """
    assert run(text, isolate=isolate, inputs={"tiny": data}).state == "COMPLETE"
    assert (data / "train" / "a.txt").read_text() == "given"
    shutil.rmtree(tmp_path / "session")
    assert (data / "train" / "a.txt").read_text() == "given"


@needs_mounts
def test_two_sessions_at_once_do_not_see_each_other(tmp_path: Path) -> None:
    text = "import os, time\nopen('mine', 'x').close()\ntime.sleep(0.5)\nprint(len(os.listdir('/kaggle/working')))"
    (tmp_path / "pushed.py").write_text(text)
    results: list[KernelResult] = []

    def one(name: str) -> None:
        options: dict[str, Any] = {"inputs": {}, "internet": False, "cancelled": threading.Event(), "seconds": 30}
        results.append(Sandbox()(tmp_path / "pushed.py", folder=tmp_path / name, **options))

    threads = [threading.Thread(target=one, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.log.splitlines()[-1] for result in results] == ["1", "1"]
