import pytest
import yaml

from pipeline.competition import Competition, list_competitions, load_competition
from pipeline.errors import DataError, KitError
from tests.conftest import write_competition

FOLDERS = {"pictures": "train"}
TABLE = {"pictures": "train", "table": "train.csv", "id_column": "id", "label_column": "label"}


def refused(root, **settings):
    with pytest.raises(DataError) as caught:
        write_competition(root, "x", **settings)
    assert "competition.yaml" in caught.value.problem
    return caught.value.problem


def test_defaults_and_places(tmp_path):
    competition = write_competition(tmp_path, "x", train=FOLDERS)
    assert (competition.metric, competition.folds, competition.fold_seed) == ("accuracy", 5, 0)
    assert competition.data == tmp_path / "competitions" / "x" / "data"
    assert competition.folds_file == tmp_path / "competitions" / "x" / "folds.csv"
    assert competition.quarantine_file == tmp_path / "competitions" / "x" / "quarantine.csv"


def test_what_is_written_reads_back(tmp_path):
    split = {"column": "set", "train": "tr", "held_out": "va", "test": "te"}
    first = write_competition(
        tmp_path,
        "x",
        train={**TABLE, "group_column": "Größe", "split": split, "match": "stem"},
        test={"pictures": "test"},
        metric="log_loss",
        submission="probabilities",
        folds=3,
    )
    text = first.to_yaml()
    assert "folder" not in yaml.safe_load(text)
    assert "Größe" in text
    (first.folder / "competition.yaml").write_text(text, "utf-8")
    assert load_competition("x", root=tmp_path) == first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "train: missing"),
        ({"train": {"picture": "train"}}, "train.picture: unknown key; did you mean 'pictures'?"),
        (
            {"train": {"pictures": "a/" + "x" * 256}},
            "train.pictures: is no path: a name in it is longer than 255 bytes",
        ),
        ({"train": FOLDERS, "sample_submission": "a\0b"}, "sample_submission: is no path"),
        ({"train": FOLDERS, "fold_seed": 2**32}, "fold_seed: Input should be less than 4294967296"),
        ({"train": FOLDERS, "metric": "acuracy"}, "metric: is no metric; did you mean accuracy?"),
        ({"train": FOLDERS, "metric": "map@0", "submission": "ranked"}, "metric: is no metric; did you mean map@K?"),
        (
            {"train": FOLDERS, "metric": "roc_auc"},
            "roc_auc looks at probabilities, which a submission of the form `class`",
        ),
        (
            {"train": FOLDERS, "metric": "map@10", "submission": "ranked"},
            "map@10 counts 10 names, and a submission",
        ),
        ({"train": FOLDERS, "metric": "map@5", "submission": "probability"}, "with this metric `submission` is one of"),
        ({"train": FOLDERS, "metric": "sample_f1", "submission": "names"}, "`names` is not for a single target"),
        (
            {"train": FOLDERS, "target": "multilabel", "submission": "names"},
            "train.label_columns or train.label_separator",
        ),
        (
            {
                "train": {**TABLE, "label_separator": " "},
                "target": "multilabel",
                "submission": "long",
                "metric": "quadratic_kappa",
            },
            "quadratic_kappa is not for a multilabel target",
        ),
        ({"train": {**TABLE, "label_separator": " "}}, "several names need target: multilabel"),
        ({"train": {**TABLE, "label_columns": ["a", "b"]}}, "one of label_column and label_columns must be given"),
        ({"train": {**FOLDERS, "label_pattern": "(["}}, "train.label_pattern: is no regular expression"),
        ({"train": {**FOLDERS, "label_pattern": "[a-z]+"}}, "train.label_pattern: has no group named label"),
        ({"train": FOLDERS, "positive": "1"}, "positive has no effect without `submission: probability`"),
        ({"train": FOLDERS, "class_weights": {"a": 2}}, "class_weights has no effect without"),
        ({"train": FOLDERS, "folds": 1}, "folds: Input should be greater than or equal to 2"),
        ({"train": {**FOLDERS, "table": "t.csv"}}, "id_column and one of label_column and label_columns must be given"),
        ({"train": {**FOLDERS, "label_column": "x"}}, "have no effect without a table"),
        ({"train": {**FOLDERS, "group_column": "x"}}, "have no effect without a table"),
        ({"train": {**FOLDERS, "split": {"column": "x"}}}, "have no effect without a table"),
        ({"train": {**TABLE, "held_out_pictures": "v"}}, "held_out_pictures has no effect with a table"),
        ({"train": {**FOLDERS, "match": "guess"}}, "train.match"),
        ({"train": FOLDERS, "folder": "/elsewhere"}, "folder"),
    ],
)
def test_faults_are_named(tmp_path, settings, message):
    assert message in refused(tmp_path, **settings)


def test_the_slug_is_the_name_of_the_folder(tmp_path):
    """A copied folder would otherwise write over the results of the first."""
    write_competition(tmp_path, "x", train=FOLDERS).folder.rename(tmp_path / "competitions" / "y")
    with pytest.raises(DataError, match="is of the competition 'x'"):
        load_competition("y", root=tmp_path)


def test_a_wrong_slug_is_refused(tmp_path):
    with pytest.raises(DataError, match="String should match pattern"):
        write_competition(tmp_path, "Not A Slug", train=FOLDERS)


@pytest.mark.parametrize("content", [b"a: [", b"", b"\xff\xfe", b"- 1"])
def test_a_broken_file_is_named(tmp_path, content):
    competition = write_competition(tmp_path, "x", train=FOLDERS)
    (competition.folder / "competition.yaml").write_bytes(content)
    with pytest.raises(KitError, match=r"competition\.yaml"):
        load_competition("x", root=tmp_path)


def test_there_is_no_such_competition(tmp_path):
    with pytest.raises(DataError, match="no competition 'cars'") as caught:
        load_competition("cars", root=tmp_path)
    assert caught.value.next_step == "kit init cars --data FOLDER"
    write_competition(tmp_path, "cars10", train=FOLDERS)
    with pytest.raises(DataError, match="no competition 'cars'") as caught:
        load_competition("cars", root=tmp_path)
    assert "cars10" in caught.value.expected
    assert caught.value.next_step == "did you mean 'cars10'?"


def test_list_competitions(tmp_path):
    assert list_competitions(tmp_path) == []
    for slug in ("b", "a"):
        write_competition(tmp_path, slug, train=FOLDERS)
    (tmp_path / "competitions" / "unfinished").mkdir()
    assert list_competitions(tmp_path) == ["a", "b"]


def test_a_competition_does_not_change(tiny_competition):
    with pytest.raises(ValueError, match="frozen"):
        tiny_competition.folds = 3
    assert isinstance(tiny_competition, Competition)
