"""Finished experiments: listed, and found by name."""

from pathlib import Path

import pytest

from pipeline.artifacts import Workspace, write_json, write_text
from pipeline.errors import DataError
from pipeline.predictions.manifests import (
    MANIFEST,
    chosen_on,
    ended_on,
    extra_in_words,
    find_experiment,
    flattered_by,
    list_experiments,
    require_networks,
    stages_in_words,
)


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


def told(**changes: object) -> dict[str, object]:
    """A manifest of three stages and three folds, none of which was left aside."""
    stages = [{"name": name, "left_aside": []} for name in ("head", "half", "all")]
    monitored = [{"name": name, "monitor": "loss"} for name in ("head", "half", "all")]
    recipe = {"stages": monitored, "end_on": "best"}
    ends = dict.fromkeys(("0", "1", "2"), "all")
    known = {"metric": "accuracy", "select_on": "last", "stages_chosen_on": None, "folds": [0, 1, 2]}
    return {**known, "stages": stages, "recipe": recipe, "ends_on": ends, **changes}


def test_the_stage_that_a_fold_ends_on() -> None:
    assert ended_on(told(ends_on={"0": "head", "1": "all", "2": "half"})) == {0: 0, 1: 2, 2: 1}
    earlier = told()
    del earlier["ends_on"]  # of a build whose folds ended on the last
    assert ended_on(earlier) == {0: 2, 1: 2, 2: 2}


def test_stages_in_words() -> None:
    assert stages_in_words(told()) == "the last in every fold, none was left aside (end_on: best)"
    for always in ({"end_on": "last"}, {}):  # that of an earlier build does not say
        assert stages_in_words(told(recipe=always)) == "the last in every fold (end_on: last)"
    assert stages_in_words(told(stages=[{"name": "one", "left_aside": []}])) == ""
    blend = {"stages": [], "recipe": None, "select_on": "last"}
    assert stages_in_words(blend) == ""
    assert stages_in_words({**blend, "stages_chosen_on": "fold"}).startswith("members left some aside by the scored")
    stages = [{"name": "head", "left_aside": []}, {"name": "half", "left_aside": [0, 2]}]
    stages.append({"name": "all", "left_aside": [2]})
    some = told(stages=stages, ends_on={"0": "all", "1": "all", "2": "head"})
    assert stages_in_words(some) == (
        "head (fold 2), all (folds 0, 1) (end_on: best); left aside: half (folds 0, 2), all (fold 2), as an earlier "
        "stage was better by more than the standard error of the difference, in accuracy on the scored fold, which "
        "flatters the score a little"
    )
    assert stages_in_words({**some, "select_on": "inner"}).endswith("was better by loss on the inner rows")
    watching = [{"name": name, "monitor": monitor} for name, monitor in (("half", "loss"), ("all", "score"))]
    mixed = {**some, "select_on": "fold", "recipe": {"stages": watching, "end_on": "best"}}
    said = "by loss on the scored fold or accuracy on the scored fold, which flatters the score a little"
    assert stages_in_words(mixed).endswith(said)


@pytest.mark.parametrize(
    ("select_on", "stages", "flattered", "said"),
    [
        ("last", None, [], "last"),
        ("last", "fold", ["stages"], "last, stages: fold"),
        ("inner", "inner", [], "inner"),
        ("fold", None, ["epochs"], "fold"),
        ("fold", "fold", ["epochs", "stages"], "fold"),
    ],
)
def test_what_was_chosen_on_the_scored_rows(
    select_on: str, stages: str | None, flattered: list[str], said: str
) -> None:
    manifest = told(select_on=select_on, stages_chosen_on=stages)
    assert (flattered_by(manifest), chosen_on(manifest)) == (flattered, said)
