"""Finished experiments: listed, and found by name."""

from pathlib import Path

import pytest

from pipeline.artifacts import Workspace, write_json, write_text
from pipeline.errors import DataError
from pipeline.predictions.manifests import MANIFEST, extra_in_words, find_experiment, list_experiments, require_networks


def finish(workspace: Workspace, slug: str, name: str) -> None:
    write_json(workspace.oof(slug, name) / MANIFEST, {})


def test_an_experiment_without_a_result_is_not_taken_for_a_misspelt_one(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    finish(workspace, "cards", "one")
    write_json(workspace.run("cards", "one-more") / "run.json", {})
    with pytest.raises(DataError, match=r"'one-more' in cards has no result yet: none of its folds is trained to"):
        find_experiment(workspace, "one-more", slug=None)


def test_experiments_are_listed_by_competition(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for slug, name in [("cars", "b"), ("cards", "z"), ("cards", "a")]:
        finish(workspace, slug, name)
    write_text(workspace.oof("cards", "unfinished") / "oof.parquet", "")
    assert list_experiments(workspace) == [("cards", "a"), ("cards", "z"), ("cars", "b")]
    assert list_experiments(workspace, "cards") == [("cards", "a"), ("cards", "z")]


def test_an_experiment_is_found_by_its_name_where_that_is_enough(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for slug, name in [("cards", "demo"), ("cars", "demo"), ("cars", "big")]:
        finish(workspace, slug, name)
    assert find_experiment(workspace, "big", slug=None) == ("cars", "big")
    assert find_experiment(workspace, "demo", slug="cards") == ("cards", "demo")
    with pytest.raises(DataError, match=r"exists in 2 competitions: cards, cars[\s\S]*--competition"):
        find_experiment(workspace, "demo", slug=None)
    with pytest.raises(DataError, match=r"no finished experiment 'bigg'[\s\S]*did you mean 'big'\?"):
        find_experiment(workspace, "bigg", slug=None)
    with pytest.raises(DataError, match="no finished experiment 'big' in cards"):
        find_experiment(workspace, "big", slug="cards")


def test_without_any_experiment_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="kit train"):
        find_experiment(Workspace(tmp_path), "demo", slug=None)


def test_a_blend_has_no_networks() -> None:
    with pytest.raises(DataError, match="mix is a blend"):
        require_networks({"experiment": "mix", "recipe": None})
    require_networks({"experiment": "one", "recipe": {}})


def test_extra_rows_in_words() -> None:
    assert extra_in_words({"more": {"0": 5, "1": 5}, "guessed": {"0": 2, "1": 1}}) == "more 5, guessed 1 to 2 a fold"
