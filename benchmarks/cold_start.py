"""How long does a command take that has little to do, against `import pandas` and against another checkout?

    python benchmarks/cold_start.py --root WORKSPACE [--against CHECKOUT] [COMMAND …]

Each command runs in a new process, as `kit` does, in WORKSPACE, which holds the competition `demo` and its results.
The sides take turns; medians. A command that one side does not know or refuses shows by its exit code.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PANDAS = "import pandas"
KIT = "from pipeline.cli import main; main()"
COMMANDS = (
    *("--help", "--version", "train --help", "trai", "train demo dmo", "train dem demo"),
    *("oof list", "submissions", "folds demo"),
)


def run(code: str, *words: str, checkout: Path, root: Path) -> tuple[float, int]:
    """Seconds, and the exit code."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=root, env=environment, capture_output=True)
    return time.perf_counter() - start, done.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", default=COMMANDS, help="such as 'oof list'")
    parser.add_argument("--root", type=Path, required=True, help="the workspace")
    parser.add_argument("--against", type=Path, help="another checkout of the kit")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    sides = {"here": HERE} | ({"against": given.against.resolve()} if given.against else {})
    print(
        f"median of {given.repeats}; {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("pandas", "typer", "scikit-learn"))
    )
    print(f"{'seconds':28}{'pandas':>8}" + "".join(f"{side:>9} exit" for side in sides), end="")
    print("  here / pandas" + "  against / here" * bool(given.against))
    for command in given.commands:
        seconds: dict[str, list[float]] = {"pandas": [], **{side: [] for side in sides}}
        codes = {}
        for number in range(-1, given.repeats):  # the first round warms the disk's cache, and compiles what is not
            took = {"pandas": run(PANDAS, checkout=HERE, root=given.root)}
            took |= {
                side: run(KIT, *command.split(), checkout=checkout, root=given.root) for side, checkout in sides.items()
            }
            for side, (elapsed, code) in took.items():
                codes[side] = code
                seconds[side] += [elapsed] * (number >= 0)
        median = {side: statistics.median(values) for side, values in seconds.items()}
        print(f"kit {command:24}{median['pandas']:8.2f}", end="")
        print("".join(f"{median[side]:9.2f}{codes[side]:5d}" for side in sides), end="")
        print(f"{median['here'] / median['pandas']:15.2f}", end="")
        print(f"{median['against'] / median['here']:16.1f}" if given.against else "", flush=True)


if __name__ == "__main__":
    main()
