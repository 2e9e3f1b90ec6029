"""What is written about the kit names what the kit has."""

import re
from pathlib import Path

import pytest

from pipeline.recipe import load_recipe, shipped_recipes
from tests.test_cli import ALL

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = [path for path, command in ALL.items() if path and not hasattr(command, "commands")]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_readme_names_every_command(path: tuple[str, ...]) -> None:
    assert re.search(rf"\bkit {' '.join(path)}\b", README)


def test_the_readme_names_no_command_that_is_not_there() -> None:
    for block in re.findall(r"^```.*?^```", README, flags=re.M | re.S):
        for words in re.findall(r"^(?:\$ )?kit ((?:[a-z-]+ ?)+)", block, flags=re.M):
            assert any(tuple(words.split()[: len(path)]) == path for path in COMMANDS), words


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_opens_with_its_command(name: str) -> None:
    first = shipped_recipes()[name].splitlines()[0]
    assert re.match(rf"# kit train {re.escape(name)} \S+", first)
    assert load_recipe(name).name == name


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_readme_lists_every_shipped_recipe(name: str) -> None:
    assert re.search(rf"^\| `{re.escape(name)}` \| .+ \| .+ \|$", README, flags=re.M)
