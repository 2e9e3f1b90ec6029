"""How long does `scripts/train_folds.sh` take after set-up, against another build of the kit?

    python benchmarks/main_job.py --against CHECKOUT [--runs 5] [-- --fold 0]

Each run has a fresh copy of its checkout, as a clone would be but with what is not committed: nothing rendered,
decoded, trained or compiled is there, only the checkout's own `.venv`, which has to be set up. What stands after `--`
is passed on to the script. User and system seconds and page faults are of all processes. Linux only.
"""

import argparse
import os
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from common import HERE, Measured, alternating, build, hardware, manifest, measure, middle, versions


def copy_of(checkout: Path, folder: Path) -> None:
    """The files that git knows or would add, and a link to the set-up environment."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(
        ["git", "-C", str(checkout), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (checkout / name).is_file():  # one that was deleted is still listed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, folder / name)
    (folder / ".venv").symlink_to((checkout / ".venv").resolve())


def require_set_up(checkout: Path) -> None:
    """Refuse a checkout that the script would set up first: that would be timed, too."""
    asked = 'wanted=$(cat setup.cfg constraints.txt | cksum); grep -qsxF "$wanted" .venv/kit-*'
    if subprocess.run(["bash", "-c", asked], cwd=checkout, capture_output=True).returncode:
        raise SystemExit(
            f"{checkout} is not set up\n  expected: a checkout whose .venv is of today's setup.cfg\n"
            f"  next: bash -c 'source {checkout}/scripts/setup.sh; setup_kit'"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="another checkout, set up")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("options", nargs="*", help="after --: options of `kit train`")
    given = parser.parse_args()
    checkouts = {"this build": HERE, "the other": given.against.resolve()}
    print(hardware())
    print(versions("tensorflow", "keras"), "· oneDNN:", os.environ.get("TF_ENABLE_ONEDNN_OPTS", "not set"))
    for name, checkout in checkouts.items():
        require_set_up(checkout)
        print(f"{name}: {build(checkout)}")
    scores: dict[str, set[str]] = {name: set() for name in checkouts}
    with TemporaryDirectory() as temporary:
        copy = Path(temporary) / "kit"

        def run(name: str) -> Measured:
            copy_of(checkouts[name], copy)
            done = measure(
                ["bash", "scripts/train_folds.sh", *given.options],
                folder=copy,
                # Before what .venv was set up with, which is the checkout and not its copy.
                environment={"PYTHONPATH": str(copy)},
            )
            if "setting up" in done.output:
                raise SystemExit(f"{name} was set up in the time measured:\n{done.output[:2000]}")
            result = manifest(copy, "demo")
            stages = re.findall(r"^(fold \d.*?)\s+\d+ s$", done.output, re.MULTILINE)
            scores[name].add(f"{result['oof_score']:.4f} ± {result['oof_score_se']:.4f}" if result else stages[-1])
            return done

        found = alternating({name: partial(run, name) for name in checkouts}, rounds=given.runs)
    for name, runs in found.items():
        print(
            f"{name}: {middle([r.seconds for r in runs])} s, user {middle([r.user for r in runs])} s, "
            f"system {middle([r.system for r in runs])} s, {median(r.faults for r in runs):,.0f} page faults; "
            f"OOF {', '.join(sorted(scores[name]))}"
        )
    other, ours = (median(r.seconds for r in found[name]) for name in ("the other", "this build"))
    print(f"the other takes {other / ours:.2f} times as long")


if __name__ == "__main__":
    main()
