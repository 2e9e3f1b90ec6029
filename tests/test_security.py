"""What the code may not do, whatever a competition's files say; and where names may lead."""

import ast
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from tests.conftest import write_tiny_competition

ROOT = Path(__file__).resolve().parents[1]
UNPICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "read_pickle", "to_pickle", "unsafe_load", "full_load", "system", "popen", "extractall"}
CALLS |= {"unpack_archive", "enable_unsafe_deserialization", "yaml.load", "torch.load"}
KEYWORDS = {"allow_pickle": True, "shell": True, "safe_mode": False, "weights_only": False}
# `torch_weights.py` knows tensors and refuses every other name; `workers.py` looks whether an error of its own survives
# the way between two processes; `inside.py` is the process in which a rehearsal runs the kernel that was pushed. The
# zips are the kit's own; a competition's are `submit/unzip.py`'s.
ALLOWED = {
    ("pipeline/model/torch_weights.py", "pickle"),
    ("pipeline/data/workers.py", "pickle"),
    ("pipeline/rehearsal/inside.py", "exec"),
    ("pipeline/on_kaggle.py", "extractall"),
    ("pipeline/rehearsal/datasets.py", "extractall"),
    ("pipeline/submit/payload.py", "extractall"),
}


def forbidden(source: str) -> set[str]:
    """What in this code could run what a file says."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & UNPICKLES
        elif isinstance(node, ast.ImportFrom):
            found |= ({node.module or ""} & UNPICKLES) | ({alias.name for alias in node.names} & CALLS)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found |= {name, name.rpartition(".")[2]} & CALLS
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if keyword.arg in KEYWORDS and value is not (not KEYWORDS[keyword.arg]):
                    found.add(keyword.arg)
            if name.endswith("load_model") and "safe_mode" not in {keyword.arg for keyword in node.keywords}:
                found.add("load_model")
    return found


def test_no_code_runs_what_a_file_says() -> None:
    files = [path for folder in ("pipeline", "kernels", "scripts") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 150
    places = [(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")) for path in files]
    assert {(place, what) for place, source in places for what in forbidden(source)} == ALLOWED


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from joblib import load", "np.load(f, allow_pickle=True)", "np.load(f, allow_pickle=anything)",
     "yaml.load(f, yaml.Loader)", "eval('1')", "exec(code)", "pd.read_pickle(f)", "run(words, shell=True)",
     "keras.saving.load_model(f)", "keras.saving.load_model(f, safe_mode=False)", "archive.extractall()",
     "torch.load(f)"],
)  # fmt: skip
def test_it_would_be_found(source: str) -> None:
    assert forbidden(source)
    assert not forbidden(
        "np.load(f, allow_pickle=False); yaml.safe_load(f); network.compile(); load_model(f, safe_mode=True)"
    )


def test_pages_escape_everything_but_figures() -> None:
    """`render_page` escapes: nothing takes that back but `Markup`, which `figure_svg` alone makes."""
    templates = [path.read_text("utf-8") for path in (ROOT / "pipeline/report/templates").glob("*.j2")]
    assert templates and not [one for one in templates if re.search(r"\|\s*safe\b|autoescape", one)]
    uses = [
        path.name for path in (ROOT / "pipeline").rglob("*.py") if re.search(r"\bMarkup\(", path.read_text("utf-8"))
    ]
    renders = [path for path in (ROOT / "pipeline").rglob("*.py") if "jinja2" in path.read_text("utf-8")]
    assert uses == ["page.py"] and [path.name for path in renders] == ["page.py"]


@pytest.mark.parametrize("name", ["../../outside", "/outside", "x" * 300])
def test_no_name_leads_out_of_the_workspace(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "a" / "workspace"
    write_tiny_competition(root)
    (root / "recipe.yaml").write_text(f"name: {name}\n")
    monkeypatch.chdir(root)
    for words in (
        ["init", name, "--data", "competitions/tiny/data"],
        ["init", "other", "--data", "competitions/tiny/data", "--table", name],
        ["train", "demo", "tiny", "--suffix", f"x/{name}"],
        ["train", "recipe.yaml", "tiny"],
        ["train", "demo", name],
        *([command, name] for command in ("explore", "folds", "report", "export", "download", "submissions")),
        ["predict", name, "competitions/tiny/data/test"],
        ["blend", "a", "b", "--name", name],
        ["pseudo-label", name],
        ["submission", "make", name],
        ["submission", "check", name],
        ["kernel", "build", name],
        ["kernel", "status", name],
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code in {1, 2} and isinstance(done.exception, SystemExit), (words, done.exception)
    assert {path.name for path in tmp_path.rglob("*")} >= {"workspace", "tiny"}
    outside = [path for path in tmp_path.rglob("*") if path != root.parent and not path.is_relative_to(root)]
    assert outside == [] and not Path("/outside").exists()
