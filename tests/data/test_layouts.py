"""Real competitions' layouts, rebuilt small: what `kit init` makes of each, and where each of its advices leads."""

import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pipeline.competition import Competition
from pipeline.data.competition_data import sample_form
from pipeline.data.describe import init_competition
from pipeline.data.folds import load_folds
from pipeline.data.index import test_index as index_of_test
from pipeline.data.index import train_index
from pipeline.data.infer import Finding, infer
from pipeline.data.infer_wishes import Wishes
from pipeline.errors import DataError
from pipeline.targets import classes_of
from tests.conftest import make_picture, make_pictures, write_table

NO_WISH = Wishes()


def numbered(folder: Path, names, *, suffix: str = ".jpg") -> None:
    for seed, name in enumerate(names):
        make_picture(folder / f"{name}{suffix}", seed=seed, size=(8, 10))


def described(data: Path, wishes: Wishes = NO_WISH) -> tuple[Competition, list[Finding]]:
    """The competition that is inferred and written below the data's folder, and what was found."""
    competition, findings, _ = init_competition("new", data, root=data.parent / "root", wishes=wishes)
    return competition, findings


def said(findings: list[Finding]) -> str:
    return "\n".join(f"{finding.key} {finding.value}: {finding.reason}" for finding in findings)


def refusal(data: Path, wishes: Wishes = NO_WISH) -> DataError:
    with pytest.raises(DataError) as caught:
        infer("new", data, wishes)
    return caught.value


def followed(text: str, wishes: Wishes = NO_WISH, *, option: int = 0) -> Wishes:
    """`wishes` with the option that a message advises, as a shell would read it."""
    advised = re.findall(r"--[a-z][a-z-]+ (?:'[^']*'|[^\s;,)]+(?:,[^\s;,)]+)*)", text)
    name, value = shlex.split(advised[option])
    field = name[2:].replace("-", "_")
    return replace(wishes, **{field: tuple(value.split(",")) if field == "label_columns" else value})


# Thirteen competitions


def one_column(data: Path, *, sample: str, label: str = "label") -> Path:
    """histopathologic-cancer-detection, invasive-species-monitoring: one label 0 or 1."""
    numbered(data / "train", range(1, 7))
    numbered(data / "test", range(1, 4))
    write_table(data / "train_labels.csv", f"name,{label}", *(f"{n},{n % 2}" for n in range(1, 7)))
    write_table(data / "sample_submission.csv", f"name,{label}", *(f"{n},{sample}" for n in range(1, 4)))
    return data


@pytest.mark.parametrize("sample", ["0.5", "0.0", "0.123"])
def test_a_fraction_is_the_probability_of_class_1(tmp_path, sample):
    competition, findings = described(one_column(tmp_path / "d", sample=sample))
    assert (competition.submission, competition.positive, competition.metric) == ("probability", None, "roc_auc")
    assert (competition.train.pictures, competition.test.pictures) == ("train", "test")
    assert f"submission probability: the sample's 'label' holds {sample}; of the class 1" in said(findings)
    assert list(index_of_test(competition)["id"]) == ["1", "2", "3"]


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss", "brier", "partial_roc_auc@0.8"])
def test_a_metric_of_probabilities_is_never_given_labels(tmp_path, metric):
    competition, _ = described(one_column(tmp_path / "d", sample="0"), Wishes(metric=metric))
    assert (competition.submission, competition.metric) == ("probability", metric)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "matthews"])
def test_a_sample_of_zeros_is_of_classes_where_the_metric_is_of_labels(tmp_path, metric):
    competition, findings = described(one_column(tmp_path / "d", sample="0"), Wishes(metric=metric))
    assert (competition.submission, competition.metric) == ("class", metric)
    assert not [finding for finding in findings if not finding.key]


def test_a_sample_of_zeros_and_no_metric_is_in_doubt(tmp_path):
    data = one_column(tmp_path / "d", sample="0")
    competition, findings = infer("new", data, NO_WISH)
    assert (competition.submission, competition.metric) == ("class", "accuracy")
    doubt = next(finding.reason for finding in findings if not finding.key)
    assert infer("new", data, followed(doubt))[0].submission == "probability"


def test_a_metric_that_does_not_fit_the_sample_is_refused(tmp_path):
    data = one_column(tmp_path / "d", sample="0.5")
    error = refusal(data, Wishes(metric="accuracy"))
    assert "accuracy looks at labels, which a submission that holds probability" in error.problem
    assert infer("new", data, followed(error.next_step, Wishes(metric="accuracy")))[0].submission == "class"


def plant_2020(data: Path, *rows: str) -> Path:
    """plant-pathology-2020-fgvc7: four columns of 0 and 1."""
    header = "image_id,healthy,multiple_diseases,rust,scab"
    rows = rows or ("1,0,0,0", "0,1,0,0", "0,0,1,0", "0,0,0,1", "0,0,0,1")
    numbered(data / "images", [*(f"Train_{n}" for n in range(len(rows))), "Test_0", "Test_1"])
    write_table(data / "train.csv", header, *(f"Train_{n},{row}" for n, row in enumerate(rows)))
    write_table(data / "test.csv", "image_id", "Test_0", "Test_1")
    write_table(data / "sample_submission.csv", header, *(f"Test_{n},0.25,0.25,0.25,0.25" for n in range(2)))
    return data


def test_plant_pathology_2020(tmp_path):
    competition, _ = described(plant_2020(tmp_path / "d"))
    names = ("healthy", "multiple_diseases", "rust", "scab")
    assert (competition.train.label_columns, competition.target) == (names, "single")
    assert (competition.submission, competition.metric) == ("probabilities", "log_loss")
    assert list(train_index(competition)["label"]) == [*names, "scab"]


def test_a_column_of_the_sample_that_no_picture_is_of(tmp_path):
    """isic-2019: UNK is in the test pictures alone."""
    data = plant_2020(tmp_path / "d", "1,0,0,0", "0,1,0,0", "0,0,1,0", "0,0,1,0")
    competition, findings = described(data)
    assert "no picture is of scab" in said(findings)
    classes = classes_of(competition, train_index(competition)["label"])
    assert classes == sorted(competition.train.label_columns)
    assert sample_form(competition, classes).columns == competition.train.label_columns


def test_columns_of_which_several_are_1_are_several_labels(tmp_path):
    data = plant_2020(tmp_path / "d", "1,0,0,0", "0,0,1,1", "0,0,0,0", "0,1,0,0", "0,0,1,0", "0,0,0,1")
    competition, findings = described(data)
    assert (competition.target, competition.metric) == ("multilabel", "roc_auc")
    assert list(train_index(competition)["label"])[:3] == ["healthy", "rust|scab", ""]
    doubt = next(finding.reason for finding in findings if not finding.key)
    assert doubt.startswith("2 of 6 rows have none or several")
    single, _, audited = init_competition("single", data, root=tmp_path / "root", wishes=followed(doubt))
    assert single.target == "single"
    assert audited.faults == {"Train_1": "several labels: rust, scab", "Train_2": "no label"}


@pytest.mark.parametrize("column", ["scab", "healthy"])
def test_a_reading_whose_classes_are_not_the_samples_is_refused(tmp_path, column):
    data = plant_2020(tmp_path / "d")
    error = refusal(data, Wishes(label_column=column))
    assert f"the column {column!r} of train.csv has other classes than the sample submission" in error.problem
    assert "only the sample has healthy, multiple_diseases, rust, scab; only the train table has 0, 1" in error.problem
    assert infer("new", data, followed(error.next_step))[0].train.label_columns[3] == "scab"


def plant_2021(data: Path, *, between: str = " ", sample: str = "healthy") -> Path:
    """plant-pathology-2021-fgvc8: several names in a cell."""
    cells = ["healthy", "scab frog_eye complex", "scab", "complex", "rust", "frog_eye", "scab frog_eye", "rust"]
    numbered(data / "train_images", (f"a{n}" for n in range(len(cells))))
    numbered(data / "test_images", ["b0", "b1"])
    rows = (f'a{n}.jpg,"{cell.replace(" ", between)}"' for n, cell in enumerate(cells))
    write_table(data / "train.csv", "image,labels", *rows)
    write_table(data / "sample_submission.csv", "image,labels", *(f"b{n}.jpg,{sample}" for n in range(2)))
    return data


@pytest.mark.parametrize("between", [" ", ", ", "|", ";"])
def test_plant_pathology_2021(tmp_path, between):
    competition, findings = described(plant_2021(tmp_path / "d", between=between))
    separator = between.strip() or " "
    assert (competition.target, competition.train.label_separator) == ("multilabel", separator)
    assert (competition.submission, competition.separator, competition.metric) == ("names", separator, "sample_f1")
    rows = train_index(competition)
    assert classes_of(competition, rows["label"]) == ["complex", "frog_eye", "healthy", "rust", "scab"]
    assert rows["label"][1] == "complex|frog_eye|scab"
    assert "'scab" in said(findings)
    assert "are taken for several names, which are in other cells, too; if each is one name: --target" in said(findings)


def test_the_samples_separator_is_that_of_a_submission(tmp_path):
    data = plant_2021(tmp_path / "d", between=" ", sample="healthy;scab")
    competition, _ = described(data)
    assert (competition.train.label_separator, competition.separator) == (" ", ";")


@pytest.mark.parametrize("metric", ["roc_auc", "sample_f1"])
def test_several_names_without_a_sample(tmp_path, metric):
    data = plant_2021(tmp_path / "d", between=";")
    (data / "sample_submission.csv").unlink()
    competition, _ = described(data, Wishes(metric=metric))
    assert competition.submission == ("names" if metric == "sample_f1" else "probabilities")
    assert competition.separator == (";" if metric == "sample_f1" else " ")


def test_a_class_named_like_two_others_is_one_in_the_sample(tmp_path):
    data = plant_2021(tmp_path / "d", sample="scab frog_eye")
    competition, _ = infer("new", data, Wishes(target="single"))
    assert competition.submission == "class"


def test_several_names_may_be_one(tmp_path):
    data = plant_2021(tmp_path / "d")
    doubt = next(finding.reason for finding in infer("new", data, NO_WISH)[1] if not finding.key)
    competition, _ = infer("new", data, followed(doubt))
    assert (competition.target, competition.submission) == ("single", "class")


@pytest.mark.parametrize(
    "names",
    [
        [f"{rank} of {suit}" for rank in ("ace", "two", "king") for suit in ("clubs", "spades")] + ["joker"],
        ["collie", "border collie", "border terrier", "terrier", "golden retriever"],
        ["red", "dark red", "blue", "dark blue", "light red", "light blue"],
        ["hot dog", "dog", "cat"],
        ["Audi A4 Sedan 2012", "BMW M3 Coupe 2012", "Audi S4 Sedan 2011", "BMW X3 SUV 2012"],
        ["tiger lily", "fire lily", "pink primrose", "primula", "hard-leaved pocket orchid"],
    ],
)
def test_a_name_that_holds_blanks_is_one_name(tmp_path, names):
    data = tmp_path / "d"
    numbered(data / "train", range(2 * len(names)))
    write_table(data / "train.csv", "id,label", *(f"{n},{names[n % len(names)]}" for n in range(2 * len(names))))
    competition, findings = infer("new", data, NO_WISH)
    assert (competition.target, competition.train.label_separator) == ("single", None)
    assert not [finding for finding in findings if not finding.key]


def planet(data: Path, *, sample: str) -> Path:
    """planet-understanding-the-amazon-from-space: names of which few ever stand alone."""
    cells = [
        f"{weather} {more}" for weather in ("clear", "haze") for more in ("primary", "primary road", "water primary")
    ]
    cells.append("cloudy")
    numbered(data / "train-jpg", (f"train_{n}" for n in range(len(cells))))
    numbered(data / "test-jpg", ["test_0", "test_1"])
    write_table(data / "train_v2.csv", "image_name,tags", *(f"train_{n},{cell}" for n, cell in enumerate(cells)))
    write_table(data / "sample_submission_v2.csv", "image_name,tags", *(f"test_{n},{sample}" for n in range(2)))
    return data


@pytest.mark.parametrize("sample", ["primary clear road water", "clear primary road"])
def test_a_sample_of_several_names_says_that_there_are_several(tmp_path, sample):
    competition, _ = described(planet(tmp_path / "d", sample=sample))
    assert (competition.target, competition.train.label_separator) == ("multilabel", " ")
    assert (competition.submission, competition.metric) == ("names", "sample_f1")
    names = ["clear", "cloudy", "haze", "primary", "road", "water"]
    assert classes_of(competition, train_index(competition)["label"]) == names


def test_a_sample_of_several_names_that_no_row_has(tmp_path):
    """imet-2019-fgvc6: numbers of attributes, most of which never come twice together."""
    data = planet(tmp_path / "d", sample="0 1 2")
    cells = ["0 5 7", "1 6", "2 9 5", "7 8", "6 5 1 9"]
    write_table(data / "train_v2.csv", "image_name,tags", *(f"train_{n},{cell}" for n, cell in enumerate(cells)))
    competition, _ = infer("new", data, NO_WISH)
    assert (competition.target, competition.submission, competition.separator) == ("multilabel", "names", " ")


def test_names_of_which_few_stand_alone_are_not_taken_apart_without_that(tmp_path):
    assert infer("new", planet(tmp_path / "d", sample="cloudy"), NO_WISH)[0].target == "single"


def test_a_sample_of_one_class_with_blanks_says_nothing(tmp_path):
    data = tmp_path / "d"
    names = [f"{rank} of {suit}" for rank in ("ace", "two") for suit in ("clubs", "spades")]
    numbered(data / "train", range(8))
    numbered(data / "test", ["t0"])
    write_table(data / "train.csv", "id,label", *(f"{n},{names[n % 4]}" for n in range(8)))
    write_table(data / "sample_submission.csv", "id,label", "t0,ace of clubs")
    competition, _ = infer("new", data, NO_WISH)
    assert (competition.target, competition.submission) == ("single", "class")


def happywhale(data: Path) -> Path:
    """happy-whale-and-dolphin: five names in a column that is called otherwise than the labels."""
    numbered(data / "train_images", (f"a{n}" for n in range(8)))
    numbered(data / "test_images", ["b0", "b1"])
    rows = (f"a{n}.jpg,{('orca', 'beluga')[n % 2]},w{n // 2}x" for n in range(8))
    write_table(data / "train.csv", "image,species,individual_id", *rows)
    write_table(data / "sample_submission.csv", "image,predictions", "b0.jpg,w0x w1x w2x", "b1.jpg,w0x w1x w2x")
    return data


def test_the_label_column_is_the_one_that_holds_the_samples_names(tmp_path):
    competition, _ = described(happywhale(tmp_path / "d"))
    assert (competition.train.label_column, competition.target) == ("individual_id", "single")
    assert (competition.submission, competition.top, competition.metric) == ("ranked", 3, "map@3")


def whale(data: Path) -> Path:
    """humpback-whale-identification: five names an id; most classes have one or two pictures."""
    labels = ["new_whale"] * 6 + [f"w_{n}" for n in (1, 1, 2, 2, 3, 4, 5)]
    numbered(data / "train", (f"a{n:02}" for n in range(len(labels))))
    numbered(data / "test", ["b0", "b1"])
    write_table(data / "train.csv", "Image,Id", *(f"a{n:02}.jpg,{label}" for n, label in enumerate(labels)))
    five = "new_whale w_1 w_2 w_3 w_4"
    write_table(data / "sample_submission.csv", "Image,Id", *(f"b{n}.jpg,{five}" for n in range(2)))
    return data


def test_humpback_whale(tmp_path):
    competition, findings, audited = init_competition("new", whale(tmp_path / "d"), root=tmp_path, wishes=NO_WISH)
    (small,) = [note for note in audited.notes if "never held out" in note]
    assert small.startswith("3 classes have one picture, which is trained on and never held out (w_3, w_4, w_5); 2 ")
    held_out = load_folds(competition, train_index(competition)).frame["fold"].tolist()
    assert held_out[-3:] == [-1, -1, -1]
    assert -1 not in held_out[:-3]
    assert (competition.target, competition.submission, competition.top) == ("single", "ranked", 5)
    assert (competition.metric, competition.separator) == ("map@5", " ")
    assert "the sample names 5 an id, best first" in said(findings)


@pytest.mark.parametrize(("wishes", "top"), [(Wishes(metric="map@3"), 5), (Wishes(top=3), 3)])
def test_how_many_names_are_ranked(tmp_path, wishes, top):
    assert infer("new", whale(tmp_path / "d"), wishes)[0].top == top


def test_a_metric_that_ranks_asks_for_as_many_names(tmp_path):
    data = whale(tmp_path / "d")
    write_table(data / "sample_submission.csv", "Image,Id", "b0.jpg,w_1", "b1.jpg,w_1")
    competition, _ = infer("new", data, Wishes(metric="map@3"))
    assert (competition.submission, competition.top) == ("ranked", 3)
    assert infer("new", data, NO_WISH)[0].submission == "class"


def redux(data: Path, names=("cat.{}", "dog.{}"), *, doubled: bool = False) -> Path:
    """dogs-vs-cats-redux-kernels-edition: labels in the names of the files, numbers in the sample."""
    train, test = (data / "train" / "train", data / "test" / "test") if doubled else (data / "train", data / "test")
    numbered(train, (name.format(n) for n in range(4) for name in names))
    numbered(test, range(1, 4))
    write_table(data / "sample_submission.csv", "id,label", *(f"{n},0.5" for n in range(1, 4)))
    return data


@pytest.mark.parametrize("doubled", [False, True])
def test_dogs_vs_cats_redux(tmp_path, doubled):
    data = redux(tmp_path / "d", doubled=doubled)
    competition, findings = described(data)
    assert classes_of(competition, train_index(competition)["label"]) == ["cat", "dog"]
    assert (competition.submission, competition.positive, competition.metric) == ("probability", "dog", "roc_auc")
    assert list(index_of_test(competition)["id"]) == ["1", "2", "3"]
    assert "labels are in the names of the files: cat.0.jpg is 'cat'" in said(findings)
    doubt = next(finding.reason for finding in findings if not finding.key)
    assert "it is of 'dog', the last by name, is assumed" in doubt
    assert infer("new", data, followed(doubt))[0].positive == "cat"


def test_the_column_may_be_named_like_the_class_it_is_of(tmp_path):
    data = redux(tmp_path / "d")
    write_table(data / "sample_submission.csv", "id,cat", *(f"{n},0.5" for n in range(1, 4)))
    assert infer("new", data, NO_WISH)[0].positive == "cat"


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (("cat.{}", "great_pyrenees_{}"), "great_pyrenees"),
        (("cat{}", "dog{}"), "dog"),
        (("{}_cat", "{}-dog"), "dog"),
        (("cat (1{})", "dog (1{})"), None),
        (("IMG_2019{}_1", "IMG_2019{}_2"), None),
        (("IMG_{}", "x{}"), None),
        (("{}", "a{}"), None),
        (("cat.{}", "x{}y_1"), None),
    ],
)
def test_labels_in_names(tmp_path, names, label):
    data = redux(tmp_path / "d", names)
    if label:
        assert label in set(train_index(described(data)[0])["label"])
    else:
        error = refusal(data)
        assert "--label-pattern" in error.next_step


def test_a_given_pattern(tmp_path):
    data = redux(tmp_path / "d", ("x1{}cat", "x1{}dog"))
    assert "holds no labels" in refusal(data).problem
    assert "--label-pattern" in refusal(data).next_step
    assert infer("new", data, Wishes(label_pattern="(?P<label>cat|dog)"))[0].positive == "dog"


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(?P<label>x)", "finds 1 classes in names such as"),
        ("(cat|dog)", "no such group"),
        ("(?P<label>cat", "no regular expression|cannot be used"),
    ],
)
def test_a_pattern_that_finds_no_classes_is_refused(tmp_path, pattern, problem):
    error = refusal(redux(tmp_path / "d", ("x1{}cat", "x1{}dog")), Wishes(label_pattern=pattern))
    assert re.search(problem, error.problem)
    assert "--label-pattern" in error.next_step


def leaf(data: Path) -> Path:
    """leaf-classification: columns of numbers beside the label; a column a species in the sample."""
    species = ["Acer_Opalus", "Quercus Rubra", "Tilia"]
    numbered(data / "images", range(1, 13))
    rows = (f"{n},{species[n % 3]},{n / 7},{n % 2},0.{n}" for n in range(1, 10))
    write_table(data / "train.csv", "id,species,margin1,shape1,texture1", *rows)
    write_table(data / "test.csv", "id,margin1,shape1,texture1", *(f"{n},0.1,0,0.2" for n in range(10, 13)))
    write_table(
        data / "sample_submission.csv", ",".join(["id", *species]), *(f"{n},0.3,0.3,0.4" for n in range(10, 13))
    )
    return data


def test_leaf_classification(tmp_path):
    competition, findings = described(leaf(tmp_path / "d"))
    assert (competition.train.table, competition.train.label_column) == ("train.csv", "species")
    assert (competition.submission, competition.train.match) == ("probabilities", "stem")
    assert "its values are the sample submission's columns" in said(findings)


def test_the_column_that_fits_the_sample_is_advised(tmp_path):
    competition = leads_on(leaf(tmp_path / "d"), Wishes(label_column="shape1"), "the column 'shape1' of train.csv has")
    assert competition.train.label_column == "species"


def test_of_two_columns_with_the_samples_classes_the_one_named_so_is_the_label(tmp_path):
    data = leaf(tmp_path / "d")
    table = pd.read_csv(data / "train.csv", dtype=str)
    table.assign(copy=table["species"]).to_csv(data / "train.csv", index=False)
    assert leads_on(data, NO_WISH, "label may be 'species' or 'copy'").train.label_column == "species"
    table.rename(columns={"species": "Class"}).assign(copy=table["species"]).to_csv(data / "train.csv", index=False)
    assert infer("new", data, NO_WISH)[0].train.label_column == "Class"


def test_a_column_of_the_sample_may_be_a_class_of_both(tmp_path):
    data = tmp_path / "d"
    names = ["cat", "dog", "cat dog"]
    numbered(data / "train", range(6))
    numbered(data / "test", ["t"])
    write_table(data / "train.csv", "id,kind,x", *(f"{n},{names[n % 3]},{n}" for n in range(6)))
    write_table(data / "sample_submission.csv", ",".join(["id", *names]), "t,0.3,0.3,0.4")
    competition, _ = infer("new", data, NO_WISH)
    assert (competition.train.label_column, competition.target) == ("kind", "single")


def test_columns_of_0_and_1_without_a_sample(tmp_path):
    data = plant_2020(tmp_path / "d")
    (data / "sample_submission.csv").unlink()
    table = pd.read_csv(data / "train.csv", dtype=str)
    table.assign(checked="1", place=list("vwxyz")).to_csv(data / "train.csv", index=False)
    competition, findings = infer("new", data, NO_WISH)
    assert competition.train.label_columns == ("healthy", "multiple_diseases", "rust", "scab")
    assert "columns of 0 and 1, one of them 1 in each row" in said(findings)


def state_farm(data: Path) -> Path:
    """state-farm-distracted-driver-detection: class folders, a table with persons, a column a class."""
    rows = []
    for label in ("c0", "c1"):
        numbered(data / "imgs" / "train" / label, (f"img_{label}{n}" for n in range(6)))
        rows += [f"p{n // 2:03},{label},img_{label}{n}.jpg" for n in range(6)]
    numbered(data / "imgs" / "test", ["img_7", "img_8"])
    write_table(data / "driver_imgs_list.csv", "subject,classname,img", *rows)
    write_table(data / "sample_submission.csv", "img,c0,c1", "img_7.jpg,0.5,0.5", "img_8.jpg,0.5,0.5")
    return data


def test_state_farm(tmp_path):
    data = state_farm(tmp_path / "d")
    competition, findings = described(data)
    assert (competition.train.label_column, competition.train.pictures) == ("classname", "imgs/train")
    assert (competition.submission, competition.test.pictures) == ("probabilities", "imgs/test")
    (offer,) = [finding.reason for finding in findings if finding.key == "train.group_column"]
    assert "3 values of 'subject' in 12 rows" in offer
    assert "flatter the score" in offer
    grouped, findings = infer("new", data, followed(offer))
    assert grouped.train.group_column == "subject"
    assert "train.group_column" not in said(findings)


def test_state_farm_without_its_table(tmp_path):
    data = state_farm(tmp_path / "d")
    (data / "driver_imgs_list.csv").unlink()
    competition, _ = described(data)
    assert (competition.train.pictures, competition.train.table) == ("imgs/train", None)
    assert set(train_index(competition)["label"]) == {"c0", "c1"}
    assert (competition.test.pictures, competition.submission) == ("imgs/test", "probabilities")


def test_both_eyes_of_a_person_are_offered_as_a_group(tmp_path):
    """diabetic-retinopathy-detection"""
    data = tmp_path / "d"
    ids = [f"{n}_{side}" for n in (10, 13, 15) for side in ("left", "right")]
    numbered(data / "train", ids, suffix=".jpeg")
    write_table(data / "trainLabels.csv", "image,level", *(f"{key},{n % 2}" for n, key in enumerate(ids)))
    _, findings = infer("new", data, NO_WISH)
    (offer,) = [finding.reason for finding in findings if finding.key == "train.group_column"]
    assert "3 ids before left and right, such as 10" in offer
    competition, _ = described(data, followed(offer))
    assert list(train_index(competition)["group"]) == ["10", "10", "13", "13", "15", "15"]


def test_a_row_a_picture_and_class(tmp_path):
    data = plant_2020(tmp_path / "d")
    names = ("healthy", "multiple_diseases", "rust", "scab")
    write_table(
        data / "sample_submission.csv", "ID,Label", *(f"Test_{n}_{name},0.5" for n in range(2) for name in names)
    )
    competition, findings = described(data)
    assert (competition.submission, competition.separator, competition.metric) == ("long", "_", "log_loss")
    assert list(index_of_test(competition)["id"]) == ["Test_0", "Test_1"]
    assert "its ids are of a picture and a class" in said(findings)


def facts(data: Path, **columns: Callable[[int], object]) -> Path:
    """A table with a label and further columns, each a function of the row."""
    numbered(data / "train", range(48))
    rows = (",".join([str(n), "abc"[n % 3], *(str(cell(n)) for cell in columns.values())]) for n in range(48))
    write_table(data / "train.csv", ",".join(["id", "label", *columns]), *rows)
    return data


@pytest.mark.parametrize(
    ("name", "cell", "is_offered"),
    [
        ("lot_id", lambda n: n // 4, True),
        ("patient", lambda n: n // 24, False),  # two are no groups to make folds of
        ("patient", lambda n: f"{n // 4:02}", True),
        ("place", lambda n: f"hill {n // 4}", True),
        ("place", lambda n: f"hill {n // 8}", False),  # few, as of many other things
        ("url", lambda n: f"http://{n}", False),  # each once
        ("patient_id", lambda n: n, False),
        ("age", lambda n: 20 + n // 4, False),
        ("label_id", lambda n: n % 3, False),  # another name of the class
        ("breed", lambda n: f"kind {n % 3}", False),
    ],
)
def test_which_columns_are_offered_as_groups(tmp_path, name, cell, is_offered):
    _, findings = infer("new", facts(tmp_path / "d", **{name: cell}), NO_WISH)
    offers = [finding.reason for finding in findings if finding.key == "train.group_column"]
    assert bool(offers) == is_offered
    assert all(f"--group-column '{name}'" in offer for offer in offers)


def test_a_few_sides_are_no_groups(tmp_path):
    data = tmp_path / "d"
    ids = [*(f"x{n}" for n in range(6)), "10_left", "10_right"]
    numbered(data / "train", ids)
    write_table(data / "train.csv", "id,label", *(f"{key},{n % 2}" for n, key in enumerate(ids)))
    assert "train.group_column" not in said(infer("new", data, NO_WISH)[1])


# Other tables


def plain(data: Path, *, table: str = "train.csv", text: str = "", suffix: str = ".jpg") -> Path:
    """Pictures 001 … 008, of which the last two are to be predicted, and a table that is given as text."""
    numbered(data / "train", (f"{n:03}" for n in range(1, 7)), suffix=suffix)
    numbered(data / "test", ["007", "008"], suffix=suffix)
    (data / table).write_text(text, "utf-8")
    return data


def rows_of(template: str, header: str = "") -> str:
    """A table of six rows; {n} is the number, {label} a or b."""
    return header + "".join(template.format(n=n, label="ab"[n % 2]) + "\n" for n in range(1, 7))


@pytest.mark.parametrize(
    ("table", "text", "match"),
    [
        ("train.csv", rows_of("{n:03}.jpg,{label}"), "path"),
        ("train.txt", rows_of("{n:03}.jpg {label}"), "path"),
        ("train.csv", rows_of("{n},{label}"), "number"),
        ("train.tsv", rows_of("{n:03}\t{label}", "id\tlabel\n"), "stem"),
        ("train.csv", rows_of("{n:03}\t{label}", "id\tlabel\n"), "stem"),
        ("train.csv", rows_of("{n:03};{label}", "id;label\n"), "stem"),
        ("train.txt", rows_of("{n:03} {label}", "id label\n"), "stem"),
        ("train.csv", rows_of('"{n}","{label}"', "id,label\n"), "number"),
        ("train.csv", rows_of("{n}.jpg,{label}", "id,label\n"), "number"),
        ("train.csv", rows_of("train/{n:03}.jpg,{label}", "id,label\n"), "path"),
        ("train.csv", rows_of("train/{n:03},{label}", "id,label\n"), "stem"),
        ("train.csv", rows_of("elsewhere/{n:03}.png,{label}", "id,label\n"), "stem"),
        ("train.csv", rows_of(",{n:03}.jpg,{label}", ",id,label\n"), "path"),
    ],
)
def test_tables(tmp_path, table, text, match):
    data = plain(tmp_path / "d", table=table, text=text)
    competition, _ = described(data)
    assert (competition.train.table, competition.train.match) == (table, match)
    assert competition.test.pictures == "test"
    assert list(train_index(competition)["label"]) == list("bababa")


@pytest.mark.parametrize("key", ["{n}", "{n:03}", "{n}.jpg", "test/{n:03}", "{n:03}.png"])
def test_ids_to_predict(tmp_path, key):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n"))
    write_table(data / "sample_submission.csv", "id,label", *(f"{key.format(n=n)},a" for n in (7, 8)))
    competition, _ = described(data)
    assert competition.test.pictures == "test"
    rows = index_of_test(competition)
    assert list(rows["id"]) == [key.format(n=7), key.format(n=8)]
    assert [Path(path).name for path in rows["path"]] == ["007.jpg", "008.jpg"]


@pytest.mark.parametrize("suffix", [".JPG", ".jfif", ".jpe", ".avif", ".jp2"])
def test_suffixes(tmp_path, suffix):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n"), suffix=suffix)
    _, _, audited = init_competition("new", data, root=tmp_path, wishes=NO_WISH)
    assert (audited.pictures, audited.faults, audited.mean_size) == (6, {}, (8.0, 10.0))


def test_stems_that_come_twice_are_told_apart_by_their_folders(tmp_path):
    data = tmp_path / "d"
    rows = []
    for label in ("a", "b"):
        numbered(data / "images" / label, ["1", "2"])
        rows += [f"{label}/1,{label}", f"{label}/2,{label}"]
    write_table(data / "train.csv", "id,label", *rows)
    competition, _ = described(data)
    assert (competition.train.match, competition.train.pictures) == ("path_stem", "images")
    assert list(train_index(competition)["label"]) == ["a", "a", "b", "b"]


def test_what_systems_and_archives_leave_behind_is_ignored(tmp_path):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n"))
    for name in (
        "__MACOSX/train/._001.jpg",
        "train/._001.jpg",
        "train/Thumbs.db",
        "train/.DS_Store",
        "train/desktop.ini",
    ):
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0\5\26\7")
    _, _, audited = init_competition("new", data, root=tmp_path, wishes=NO_WISH)
    assert (audited.pictures, audited.faults, audited.test_pictures) == (6, {}, 2)


def test_a_doubled_folder_of_class_folders(tmp_path):
    make_pictures(tmp_path / "d" / "archive" / "train" / "train", {"a": 2, "b": 2}, size=(8, 10))
    numbered(tmp_path / "d" / "archive" / "test" / "test", ["1"])
    competition, _ = described(tmp_path / "d")
    assert competition.train.pictures == "archive/train/train"
    assert competition.test.pictures == "archive/test/test"
    assert list(train_index(competition)["label"]) == ["a", "a", "b", "b"]


def test_a_first_line_that_names_a_picture_is_no_header(tmp_path):
    """Where nothing in the table itself says so."""
    data = tmp_path / "d"
    ids = ["ab1", "cd2", "ef3", "fa4", "be5"]
    numbered(data / "train", ids)
    write_table(data / "train.csv", *(f"{'ab'[n % 2]},{key}" for n, key in enumerate(ids)))
    error = refusal(data)
    assert "the first line of train.csv is a row, and no header: 'ab1' names a picture" in error.problem
    subprocess.run(error.next_step.split(": ", 1)[1], shell=True, check=True)
    competition, _ = described(data)
    assert (competition.train.id_column, competition.train.label_column) == ("id", "column 1")
    assert list(train_index(competition)["label"]) == list("aabab")


def test_a_table_that_cannot_be_read_matters_where_it_may_have_the_labels(tmp_path):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n"))
    (data / "notes.csv").write_bytes("größe,x\n1,2\n".encode("latin-1"))
    assert re.search(r"in doubt: not used: .*notes\.csv cannot be read", said(infer("new", data, NO_WISH)[1]))
    assert "notes.csv cannot be read" in refusal(data, Wishes(table="notes.csv")).problem
    (data / "notes.csv").rename(data / "sample.csv")
    assert "sample.csv cannot be read" in refusal(data).problem
    (data / "sample.csv").rename(data / "notes.csv")
    (data / "train.csv").unlink()
    assert "notes.csv cannot be read" in refusal(data).problem


def test_texts_that_are_no_tables_are_ignored(tmp_path):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n"))
    (data / "readme.txt").write_text("Pictures of a and b.\n\nSee the page, and the licence.\n")
    (data / "classes.txt").write_text("a\nb\n")
    (data / "latin.txt").write_bytes("größe a\n".encode("latin-1"))
    assert infer("new", data, NO_WISH)[0].train.table == "train.csv"


def test_a_text_a_picture_is_no_table(tmp_path):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n"))
    for number in range(30):
        (data / "train" / f"{number:03}.txt").write_text("001 b\n002 a\n003 b\n004 c\n")
    assert infer("new", data, NO_WISH)[0].train.table == "train.csv"


def test_groups_beside_a_split_have_no_effect(tmp_path):
    rows = rows_of("{n:03},{label},", "id,label,set\n").replace(",\n", ",train\n").replace("6,a,train", "6,a,valid")
    with pytest.raises(DataError, match="groups have no effect on new") as caught:
        described(plain(tmp_path / "d", text=rows), Wishes(group_pattern="(?P<group>00)"))
    assert "--group-pattern" in caught.value.next_step


def test_a_table_of_other_facts_is_named_and_not_used(tmp_path):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n"))
    write_table(data / "metadata.csv", "id,age,site", *(f"{n:03},{n + 20},knee" for n in range(1, 7)))
    competition, findings = infer("new", data, NO_WISH)
    assert competition.train.table == "train.csv"
    assert "not used, as the labels are here: metadata.csv; another: --table NAME" in said(findings)
    assert infer("new", data, Wishes(table="metadata.csv", label_column="site"))[0].train.table == "metadata.csv"


def test_train_and_test_pictures_of_the_same_ids(tmp_path):
    data = tmp_path / "d"
    for part in ("train", "test"):
        numbered(data / part, range(1, 5))
    write_table(data / "train.csv", "id,label", *(f"{n},{n % 2}" for n in range(1, 5)))
    write_table(data / "sample_submission.csv", "id,label", *(f"{n},0.5" for n in range(1, 5)))
    competition, _ = described(data)
    assert (competition.train.pictures, competition.test.pictures) == ("train", "test")


def test_a_stray_picture_is_not_the_folder_to_predict(tmp_path):
    data = tmp_path / "d"
    numbered(data / "images", range(1, 8))
    numbered(data / "examples", [7])
    write_table(data / "train.csv", "id,label", *(f"{n},{n % 2}" for n in range(1, 5)))
    write_table(data / "sample_submission.csv", "id,label", *(f"{n},0.5" for n in (5, 6, 7)))
    assert infer("new", data, NO_WISH)[0].test.pictures == "images"


def test_training_pictures_in_a_folder_named_test(tmp_path):
    data = tmp_path / "d"
    numbered(data / "test", range(1, 5))
    write_table(data / "all.csv", "id,label", *(f"{n},{n % 2}" for n in range(1, 5)))
    competition, _ = infer("new", data, NO_WISH)
    assert (competition.train.pictures, competition.test) == ("test", None)


def test_few_ids_that_name_pictures_are_not_the_ids_to_predict(tmp_path):
    """A file name that is in many folders, with a folder before it that lies above the data."""
    data = tmp_path / "d"
    make_pictures(data / "train", {"a": 2, "b": 2}, size=(8, 10))
    for person in range(4):
        numbered(data / "test" / f"p{person}", ["view1"])
    write_table(data / "sample_submission.csv", "id,label", *(f"all/test/p{n}/view1.jpg,a" for n in range(4)))
    error = refusal(data)
    assert "few pictures bear an id of the sample submission, such as all/test/p0/view1.jpg" in error.problem
    assert "--data is the folder that paths begin in" in error.next_step
    data.rename(tmp_path / "all")
    (tmp_path / "d").mkdir()
    (tmp_path / "all").rename(data / "all")
    assert infer("new", data, NO_WISH)[0].test.pictures == "."


def test_a_table_of_class_numbers_names_no_pictures(tmp_path):
    data = tmp_path / "d"
    for label in ("rose", "tulip"):
        numbered(data / label, (f"{label[0]}{n}" for n in range(4)))
    numbered(data / "rose", ["1", "2"])
    write_table(data / "classes.csv", "number,name", *(f"{n},kind {n}" for n in range(1, 6)))
    competition, _ = infer("new", data, NO_WISH)
    assert (competition.train.table, competition.train.pictures) == (None, ".")


def test_a_table_of_test_pictures_is_not_the_train_table(tmp_path):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,breed\n"))
    write_table(data / "test.csv", "id,age", "007,3", "008,4")
    assert infer("new", data, NO_WISH)[0].train.table == "train.csv"


def test_another_table_with_the_label_column_is_asked_about(tmp_path):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label},knee", "id,label,site\n"))
    (data / "more.csv").write_text(rows_of("{n:03},{label}{n}", "id,label\n"))
    assert leads_on(data, NO_WISH, "train table may be 'more.csv' or 'train.csv'").train.table == "train.csv"


def test_the_table_with_the_samples_column_is_the_train_table(tmp_path):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label},x", "id,grade,category\n"))
    write_table(data / "more.csv", "id,category,site", *(f"{n:03},k{n % 3},knee" for n in range(1, 7)))
    write_table(data / "sample_submission.csv", "id,grade", "007,a", "008,b")
    competition, _ = infer("new", data, NO_WISH)
    assert (competition.train.table, competition.train.label_column) == ("train.csv", "grade")


# What is refused, and where its advice leads


def leads_on(data: Path, wishes: Wishes, problem: str, *, option: int = 0) -> Competition:
    """The competition that is read when the option is given that the refusal names."""
    error = refusal(data, wishes)
    assert re.search(problem, error.problem)
    return infer("new", data, followed(error.next_step, wishes, option=option))[0]


TABLE = rows_of("{n:03},{label},{n}", "id,one,other\n")


def test_two_label_columns(tmp_path):
    data = plain(tmp_path / "d", text=TABLE)
    assert leads_on(data, NO_WISH, "label may be 'one' or 'other'").train.label_column == "one"


def test_columns_of_0_and_1_or_another_column(tmp_path):
    rows = rows_of("{n:03},{label},1,0", "id,kind,hot,cold\n").replace("006,a,1,0", "006,a,0,0")
    rows = rows.replace("005,b,1,0", "005,b,1,1")
    data = plain(tmp_path / "d", text=rows)
    competition = leads_on(data, NO_WISH, r"columns of 0 and 1 may be labels \(hot, cold\), or another .* \(kind\)")
    assert (competition.train.label_columns, competition.target) == (("hot", "cold"), "multilabel")
    assert infer("new", data, Wishes(label_column="kind"))[0].train.label_column == "kind"


def test_two_tables(tmp_path):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n"))
    (data / "more.csv").write_text(rows_of("{n:03},{label}{n}", "id,label\n"))
    assert leads_on(data, NO_WISH, "train table may be 'more.csv' or 'train.csv'").train.table == "more.csv"


def test_a_table_of_samples_may_be_the_train_table(tmp_path):
    """nih-chest-xrays/sample: sample_labels.csv"""
    data = plain(tmp_path / "d", table="sample_labels.csv", text=rows_of("{n:03},{label}", "id,label\n"))
    competition, _ = infer("new", data, Wishes(table="sample_labels.csv"))
    assert (competition.train.table, competition.sample_submission) == ("sample_labels.csv", None)
    write_table(data / "submission_sample.csv", "id,label", "007,a", "008,a")
    competition, _ = infer("new", data, NO_WISH)
    assert (competition.train.table, competition.sample_submission) == ("sample_labels.csv", "submission_sample.csv")


def test_two_samples(tmp_path):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n"))
    for stage in "12":
        write_table(data / f"sample_submission_stage_{stage}.csv", "id,label", "007,a", "008,a")
    competition = leads_on(data, NO_WISH, "sample submission may be")
    assert competition.sample_submission == "sample_submission_stage_1.csv"


def test_a_sample_of_another_name(tmp_path):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n"))
    write_table(data / "submission_format.csv", "id,label", "007,a", "008,a")
    assert infer("new", data, NO_WISH)[0].sample_submission == "submission_format.csv"
    write_table(data / "sample_submission.csv", "id,label", "007,a", "008,a")
    assert infer("new", data, NO_WISH)[0].sample_submission == "sample_submission.csv"


@pytest.mark.parametrize("part", ["pictures", "test_pictures"])
def test_two_folders_of_the_same_names(tmp_path, part):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n"))
    if part == "pictures":
        (data / "train").rename(data / "left")
        numbered(data / "right", (f"{n:03}" for n in range(1, 7)))
    else:
        write_table(data / "sample_submission.csv", "id,label", "007,a", "008,a")
        numbered(data / "again", ["007", "008"])
        (data / "test").rename(data / "left")
    competition = leads_on(data, NO_WISH, "folder of (train|test) pictures may be")
    chosen = competition.train if part == "pictures" else competition.test
    assert chosen.pictures == ("left" if part == "pictures" else "again")


def test_two_folders_of_one_part(tmp_path):
    data = tmp_path / "d"
    for part in ("train", "training", "test", "test_images"):
        make_pictures(data / part, {"a": 2, "b": 2}, size=(8, 10))
    first = leads_on(data, Wishes(test_pictures="test"), "train folder may be 'train' or 'training'")
    assert first.train.pictures == "train"
    assert leads_on(data, Wishes(pictures="train"), "test folder may be").test.pictures == "test"


def test_two_folders_to_validate_on(tmp_path):
    data = tmp_path / "d"
    for part in ("train", "valid", "val"):
        make_pictures(data / part, {"a": 2, "b": 2}, size=(8, 10))
    competition = leads_on(data, NO_WISH, "validation folder may be 'val' or 'valid'")
    assert (competition.train.pictures, competition.train.held_out_pictures) == ("train", None)


def test_a_class_that_is_named_like_a_part(tmp_path):
    make_pictures(tmp_path / "d", {"cat": 2, "dog": 2, "test": 2}, size=(8, 10))
    competition = leads_on(tmp_path / "d", NO_WISH, "'test' may be a class")
    assert competition.train.pictures == "."
    assert competition.test is None


def test_pictures_to_predict_beside_one_folder_of_classes(tmp_path):
    make_pictures(tmp_path / "d" / "cats", {"tabby": 2, "siamese": 2}, size=(8, 10))
    numbered(tmp_path / "d" / "test", ["1", "2"])
    competition, _ = described(tmp_path / "d")
    assert (competition.train.pictures, competition.test.pictures) == ("cats", "test")


def test_folders_may_be_named_as_the_user_sees_them(tmp_path):
    data = tmp_path / "d"
    for part in ("one", "two"):
        make_pictures(data / part, {"a": 2, "b": 2}, size=(8, 10))
    competition, _ = infer("new", data, Wishes(pictures=f"{data}/one/", test_pictures="./two"))
    assert (competition.train.pictures, competition.test.pictures) == ("one", "two")
    for field in ("pictures", "test_pictures"):
        error = refusal(data, Wishes(**{field: "three"}))
        assert "three holds no pictures" in error.problem


def test_probabilities_of_more_classes_than_two(tmp_path):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}{n}", "id,label\n"))
    write_table(data / "sample_submission.csv", "id,label", "007,0.5", "008,0.5")
    competition = leads_on(data, NO_WISH, "one probability an id .*there are 6 classes: a2, a4, a6, b1, b3 and 1 more")
    assert competition.submission == "class"


def test_the_probability_of_several_classes_together(tmp_path):
    """alaska2-image-steganalysis: folders of four classes, asked whether a picture is none of the first."""
    data = tmp_path / "d"
    paths = make_pictures(data / "train", {"cover": 2, "jmipod": 2, "uerd": 2}, size=(8, 10))
    numbered(data / "test", ["0001"])
    write_table(data / "sample_submission.csv", "Id,Label", "0001.jpg,3")
    doubt = said(infer("new", data, NO_WISH)[1]).split("in doubt: ")[1]
    assert "if they are probabilities: --metric roc_auc" in doubt
    assert "write a table of pictures and 0 or 1: --table" in refusal(data, followed(doubt)).next_step
    rows = (f"{path.relative_to(data)},{int('cover' not in str(path))}" for path in paths)
    write_table(data / "binary.csv", "path,Label", *rows)
    competition, _ = described(data, followed(doubt, Wishes(table="binary.csv")))
    assert (competition.submission, len(train_index(competition))) == ("probability", 6)


@pytest.mark.parametrize(
    ("wishes", "problem", "right"),
    [
        (Wishes(positive="b"), "--positive has no effect where a submission holds: class", "--submission probability"),
        (Wishes(top=3), "--top has no effect where a submission holds: class", "--submission ranked"),
    ],
)
def test_options_of_other_forms(tmp_path, wishes, problem, right):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n"))
    assert right in refusal(data, wishes).next_step
    competition = leads_on(data, wishes, problem)
    assert competition.submission == right.split()[1]
    assert (competition.positive, competition.top) == (wishes.positive, wishes.top or 5)


def test_an_unknown_positive_class(tmp_path):
    error = refusal(one_column(tmp_path / "d", sample="0.5"), Wishes(positive="2"))
    assert (error.problem, error.expected) == ("there is no class '2'", "0 or 1")


@pytest.mark.parametrize("wishes", [Wishes(label_pattern="(?P<label>a)", table="train.csv"), Wishes(table="more.csv")])
def test_options_of_a_table_without_one(tmp_path, wishes):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n"))
    write_table(data / "more.csv", "kind,text", "a,long", "b,short")
    assert re.search(
        "for pictures whose path says the label|no column of more.csv names", refusal(data, wishes).problem
    )


def test_several_names_that_are_not_there(tmp_path):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}+c", "id,label\n"))
    error = refusal(data, Wishes(target="multilabel"))
    assert "no cell of the column 'label' of train.csv holds several names" in error.problem
    competition, _ = infer("new", data, Wishes(target="multilabel", label_separator="+"))
    assert (competition.train.label_separator, competition.submission) == ("+", "names")


def test_a_target_that_does_not_go_with_the_submission(tmp_path):
    data = plant_2021(tmp_path / "d")
    problem = r"a submission that holds ranked \(--submission\) is not for a multilabel target"
    assert leads_on(data, Wishes(submission="ranked"), problem).submission == "probabilities"


# Bad input


def test_several_files_a_row_are_named(tmp_path):
    """hpa-human-protein-atlas-image-classification: a file a channel."""
    numbered(tmp_path / "train", (f"0a{n}_{colour}" for n in range(3) for colour in ("red", "green")), suffix=".png")
    write_table(tmp_path / "train.csv", "Id,Target", *(f"0a{n},{n} 5" for n in range(3)))
    error = refusal(tmp_path)
    assert "each value of column 'Id' of train.csv is of several pictures, such as train/0a0_green.png" in error.problem
    assert "join them in one file" in error.next_step


@pytest.mark.parametrize("columns", [",".join(f"pixel{n}" for n in range(784)), "pixels"])
def test_pictures_that_are_numbers_in_a_table_are_named(tmp_path, columns):
    """digit-recognizer, challenges-in-representation-learning-facial-expression-recognition-challenge"""
    write_table(tmp_path / "train.csv", f"label,{columns}", "1" + ",0" * len(columns.split(",")))
    assert "those of train.csv seem to be numbers" in refusal(tmp_path).problem


def test_classes_that_differ_are_named(tmp_path):
    data = leaf(tmp_path / "d")
    table = (data / "train.csv").read_text()
    (data / "train.csv").write_text(table.replace("Tilia", "Tilia x"))
    error = refusal(data)
    assert "column 'species' of train.csv has other classes" in error.problem
    assert "only the sample has Tilia; only the train table has Tilia x" in error.problem
    assert "as the sample submission does" in error.next_step


def test_class_folders_that_are_not_the_samples_columns_are_named(tmp_path):
    data = state_farm(tmp_path / "d")
    (data / "driver_imgs_list.csv").unlink()
    (data / "imgs" / "train" / "c1").rename(data / "imgs" / "train" / "c2")
    error = refusal(data)
    assert "only the sample has c1; only the training pictures have c2" in error.problem


@pytest.mark.parametrize("between", ["|", ", ", " "])
def test_names_of_which_the_sample_lacks_one_that_means_none(tmp_path, between):
    data = plant_2021(tmp_path / "d", between=between)
    write_table(
        data / "sample_submission.csv", "image,complex,frog_eye,rust,scab", *(f"b{n}.jpg,0,0,0,0" for n in (0, 1))
    )
    error = refusal(data)
    assert error.problem.endswith("than the sample submission: only the train table has healthy")
    table = pd.read_csv(data / "train.csv")
    advised = error.next_step.partition("pandas: ")[2].removesuffix(")")
    eval(advised, {"table": table}).to_csv(data / "train.csv", index=False)
    competition, _ = described(data)
    assert competition.target == "multilabel"
    assert list(train_index(competition)["label"])[:2] == ["", "complex|frog_eye|scab"]


def test_names_written_as_lists_are_refused(tmp_path):
    """fathomnet-out-of-sample-detection"""
    data = plant_2021(tmp_path / "d", between=", ")
    table = pd.read_csv(data / "train.csv")
    table.assign(labels="[" + table["labels"] + "]").to_csv(data / "train.csv", index=False)
    error = refusal(data)
    assert "the cells of column 'labels' of train.csv are written as lists, such as '[healthy]'" in error.problem
    table.assign(labels=table["labels"].str.replace(", ", "|")).to_csv(data / "joined.csv", index=False)
    competition = infer("new", data, Wishes(table="joined.csv"))[0]
    assert competition.train.label_separator == "|"


def test_a_sample_that_asks_for_more_than_the_labels(tmp_path):
    """fathomnet-out-of-sample-detection: how strange the picture is, too."""
    data = plant_2021(tmp_path / "d")
    write_table(data / "sample_submission.csv", "image,labels,osd", *(f"b{n}.jpg,scab,0.5" for n in range(2)))
    error = refusal(data)
    assert "the kit predicts one column of labels" in error.next_step
    sample = pd.read_csv(data / "sample_submission.csv")
    sample.drop(columns="osd").to_csv(data / "of_labels.csv", index=False)
    assert infer("new", data, Wishes(sample="of_labels.csv"))[0].submission == "names"


def test_rows_without_a_label_are_left_out_and_named(tmp_path):
    text = rows_of("{n:03},{label}", "id,label\n").replace("003,b", "003,").replace("004,a", "004, ")
    competition, _, audited = init_competition("new", plain(tmp_path / "d", text=text), root=tmp_path, wishes=NO_WISH)
    assert audited.faults == {"003": "no label", "004": "no label"}
    assert len(train_index(competition)) == 4


@pytest.mark.parametrize("value", ["0.38", "-1", "x"])
def test_label_columns_of_other_values_are_named(tmp_path, value):
    error = refusal(plant_2020(tmp_path / "d", "1,0,0,0", f"0,0,{value},1"))
    assert f"the label column 'rust' of train.csv holds '{value}'" in error.problem
    assert "--label-columns" in error.next_step


def test_a_picture_of_two_labels_is_named(tmp_path):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n") + "003,a\n")
    with pytest.raises(DataError, match=r"names 1 ids more than once, with different labels: 003 as 'a' and 'b'"):
        described(data)
    assert not (tmp_path / "root" / "competitions").exists() or not list((tmp_path / "root" / "competitions").iterdir())


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(.+)_", "no group named group"),
        ("(?P<group>", "no regular expression"),
        ("(?P<group>x)", "finds no group in ids"),
    ],
)
def test_a_pattern_of_groups_that_finds_none(tmp_path, pattern, problem):
    data = plain(tmp_path / "d", text=rows_of("{n:03},{label}", "id,label\n"))
    with pytest.raises(DataError, match=problem):
        described(data, Wishes(group_pattern=pattern))
