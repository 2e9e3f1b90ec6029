"""Each competition of docs/competitions.md rebuilt small and taken by its line: described, trained, scored."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.artifacts import Workspace
from pipeline.cli import app
from pipeline.competition import load_competition
from pipeline.rehearsal.hosted import hosted_from
from tests.conftest import make_picture, write_table
from tests.training.conftest import Run, recipe_of, stage

PAGE = Path(__file__).parent.parent / "docs" / "competitions.md"
ROWS = {
    cells[0]: cells
    for line in PAGE.read_text("utf-8").split("## What")[0].splitlines()
    if (cells := [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]) and len(cells) == 6
}
LINES = {slug: cells[5].strip("`").replace("\\|", "|") for slug, cells in ROWS.items() if cells[5].startswith("`kit")}
METRICS_THERE = {
    "ROC AUC": "roc_auc",
    "mean column-wise ROC AUC": "roc_auc",
    "mean F1 of the rows": "sample_f1",
    "mean F2 of the rows (F1 stands in here)": "sample_f1",
    "micro F1": "micro_f1",
    "macro F1": "macro_f1",
    "MAP@5": "map@5",
    "log loss": "log_loss",
    "accuracy": "accuracy",
    "balanced accuracy": "balanced_accuracy",
    "quadratic weighted kappa": "quadratic_kappa",
}
FORMS_THERE = {
    "probability": "probability",
    "a column a class": "probabilities",
    "class": "class",
    "class, as a number": "class",
    "names": "names",
    "five names": "ranked",
}
# The head alone: half of the time, and how a whole network is trained is no matter of the competition.
HEAD = {"unfreeze": 0, "batch_norm": "frozen", "augment": "none"}
RECIPE = recipe_of(stage("once", size=[16, 16], batch_size=8) | HEAD, select_on="last")


@dataclass
class Layout:
    """A competition in a folder.

    Attributes:
        truth: id → label of each picture to predict, the solution's rows.
    """

    data: Path
    truth: dict[str, str] = field(default_factory=dict)

    def draw(self, where: str, names: Sequence[str], labels: Sequence[str]) -> None:
        classes = sorted(set(labels))
        for seed, (name, label) in enumerate(zip(names, labels, strict=True)):
            make_picture(self.data / where / name, colour=classes.index(label), seed=seed, size=(16, 20))

    def table(self, name: str, header: str, *rows: str) -> None:
        write_table(self.data / name, header, *rows)


def cycle(classes: Sequence[str], count: int) -> list[str]:
    return [classes[number % len(classes)] for number in range(count)]


def by_table(
    data: Path,
    classes: Sequence[str],
    *,
    table: str = "train.csv",
    header: str = "id,label",
    row: str = "{id},{label}",
    train: str = "train",
    test: str = "test",
    file: str = "{n}.jpg",
    id: str = "{n}.jpg",
    sample: str = "sample_submission.csv",
    columns: str = "id,label",
    blank: str = "",
    count: int = 10,
    first_test: int = 100,
) -> Layout:
    """A table of ids and labels; the sample holds `blank`, or the first class."""
    layout = Layout(data)
    labels = cycle(classes, count)
    numbers = list(range(1, count + 1))
    layout.draw(train, [file.format(n=n, label=label) for n, label in zip(numbers, labels, strict=True)], labels)
    rows = [
        row.format(id=id.format(n=n), label=label, k=k, group=k // 2)
        for k, (n, label) in enumerate(zip(numbers, labels, strict=True))
    ]
    if table:
        layout.table(table, header, *rows)
    tested = cycle(classes, 4)
    layout.draw(test, [file.format(n=n, label="").removeprefix("/") for n in range(first_test, first_test + 4)], tested)
    layout.truth = {id.format(n=first_test + k): label for k, label in enumerate(tested)}
    if sample:
        layout.table(sample, columns, *(f"{key},{blank or classes[0]}" for key in layout.truth))
    return layout


def wide(classes: Sequence[str], key: str = "id") -> dict[str, str]:
    share = f"{1 / len(classes):.3f}"
    return {"columns": ",".join([key, *classes]), "blank": ",".join([share] * len(classes))}


def folders(
    data: Path, classes: Sequence[str], *, test: str, sample: str, columns: str, blank: str = "", **more: str
) -> Layout:
    train = more.pop("train", "train")
    return by_table(
        data, classes, table="", file="{label}/img_{n}.jpg", id="img_{n}.jpg", train=train, test=test, sample=sample,
        columns=columns, blank=blank, **more,
    )  # fmt: skip


def one_hot(
    data: Path, classes: Sequence[str], rows: Sequence[str], *, key: str, more: str = "", **where: str
) -> Layout:
    """Columns of 0 and 1; each row names its classes with blanks between."""
    layout = Layout(data)
    cells = {label: ",".join(str(int(name in label.split())) for name in classes) for label in rows}
    train, test = where.get("train", "images"), where.get("test", "images")
    layout.draw(train, [f"Train_{n}.jpg" for n in range(len(rows))], rows)
    layout.table(
        "train.csv", ",".join([key, *classes, *filter(None, [more])]),
        *(f"Train_{n},{cells[label]}" + (f",p{n // 2}" if more else "") for n, label in enumerate(rows)),
    )  # fmt: skip
    tested = list(dict.fromkeys(rows))[:4]
    layout.draw(test, [f"Test_{n}.jpg" for n in range(len(tested))], tested)
    layout.truth = {f"Test_{n}": label for n, label in enumerate(tested)}
    zeros = ",".join(["0"] * len(classes))
    layout.table("sample_submission.csv", ",".join([key, *classes]), *(f"{one},{zeros}" for one in layout.truth))
    return layout


def names(data: Path, rows: Sequence[str], *, table: str, header: str, train: str, test: str, sample: str) -> Layout:
    layout = Layout(data)
    layout.draw(train, [f"a{n}.jpg" for n in range(len(rows))], rows)
    layout.table(table, header, *(f"a{n}.jpg,{label}" for n, label in enumerate(rows)))
    tested = list(dict.fromkeys(rows))[:4]
    layout.draw(test, [f"b{n}.jpg" for n in range(len(tested))], tested)
    layout.truth = {f"b{n}.jpg": label for n, label in enumerate(tested)}
    layout.table(sample, header, *(f"{key},{rows[0]}" for key in layout.truth))
    return layout


WHALES = ["w_1", "w_2", "w_3", "w_4", "w_5", "w_6"]
FIVE = {"blank": "w_1 w_2 w_3 w_4 w_5"}
TAGS = ["clear primary", "clear", "primary road", "road", "clear road", "primary"] * 2
FISH, CERVIX, DRIVERS = ["ALB", "BET", "NoF"], ["Type_1", "Type_2", "Type_3"], ["c0", "c1", "c2"]
LEAVES, DOGS = ["Acer_Opalus", "Quercus_Rubra", "Tilia"], ["beagle", "border_collie", "pug"]
GRADES = ["0", "1", "2"]


def leaf(data: Path) -> Layout:
    layout = by_table(
        data, LEAVES, header="id,species,margin1,texture1", row="{id},{label},0.{k},0.5", train="images", test="images",
        id="{n}", **wide(LEAVES),
    )  # fmt: skip
    layout.table("test.csv", "id,margin1,texture1", *(f"{key},0.1,0.2" for key in layout.truth))
    return layout


def drivers(data: Path) -> Layout:
    layout = folders(
        data, DRIVERS, train="imgs/train", test="imgs/test", sample="sample_submission.csv", **wide(DRIVERS, "img")
    )
    found = sorted(data.glob("imgs/train/*/*.jpg"))
    layout.table(
        "driver_imgs_list.csv", "subject,classname,img",
        *(f"p{n % 5:03},{path.parent.name},{path.name}" for n, path in enumerate(found)),
    )  # fmt: skip
    return layout


def cassava(data: Path) -> Layout:
    """Ids in the last column of the sample, and folders within folders."""
    layout = folders(
        data, ["cbb", "cgm", "healthy"], train="train/train", test="test/test/0", sample="sample_submission_file.csv",
        columns="Category,Id",
    )  # fmt: skip
    layout.table("sample_submission_file.csv", "Category,Id", *(f"cgm,{key}" for key in layout.truth))
    layout.draw("extraimages/extraimages", ["extra-image-1.jpg"], ["cbb"])
    return layout


def paddy(data: Path) -> Layout:
    classes = ["blast", "normal", "tungro"]
    layout = folders(
        data, classes, train="train_images", test="test_images", sample="sample_submission.csv",
        columns="image_id,label",
    )  # fmt: skip
    found = sorted(data.glob("train_images/*/*.jpg"))
    rows = (f"{path.name},{path.parent.name},ADT45,{40 + n}" for n, path in enumerate(found))
    layout.table("train.csv", "image_id,label,variety,age", *rows)
    return layout


def cars(data: Path) -> Layout:
    layout = folders(data, GRADES, test="test_upload", sample="sample-submission.csv", columns="Id,Category")
    found = sorted(data.glob("train/*/*.jpg"))
    layout.table("train.csv", "Id,Category", *(f"{path.name},{path.parent.name}" for path in found))
    return layout


def hotels(data: Path) -> Layout:
    """Pictures in the folder of their chain, of which there are fewer than hotels."""
    hotels = ["36363", "53586", "18807", "64314", "60181", "3388"]
    layout = by_table(
        data, hotels, header="image,chain,hotel_id,timestamp", row="{id},{group},{label},2018-04-0{group} 20:00:00",
        train="flat", test="test_images", columns="image,hotel_id", blank=" ".join(hotels[:5]), count=14,
    )  # fmt: skip
    for line in (data / "train.csv").read_text().splitlines()[1:]:
        name, chain, *_ = line.split(",")
        (data / "train_images" / chain).mkdir(parents=True, exist_ok=True)
        (data / "flat" / name).rename(data / "train_images" / chain / name)
    return layout


def cats_and_dogs(data: Path, *, test: str, blank: str) -> Layout:
    layout = by_table(
        data, ["cat", "dog"], table="", file="{label}.{n}.jpg", id="{n}", test=test, columns="id,label", blank=blank,
    )  # fmt: skip
    for path in (data / test).glob(".*.jpg"):
        path.rename(path.with_name(path.name[1:]))
    return layout


PLANTS = ["healthy", "multiple_diseases", "rust", "scab"]
LAYOUTS: dict[str, Callable[[Path], Layout]] = {
    "histopathologic-cancer-detection": lambda d: by_table(
        d, ["0", "1"], table="train_labels.csv", file="f{n}.tif", id="f{n}", blank="0"
    ),
    "invasive-species-monitoring": lambda d: by_table(
        d, ["0", "1"], table="train_labels.csv", header="name,invasive", id="{n}", columns="name,invasive", blank="0.5"
    ),
    "aerial-cactus-identification": lambda d: by_table(
        d, ["0", "1"], header="id,has_cactus", train="train/train", test="test/test",
        columns="id,has_cactus", blank="0.5",
    ),
    "siim-isic-melanoma-classification": lambda d: by_table(
        d, ["0", "1"], header="image_name,patient_id,sex,age_approx,diagnosis,benign_malignant,target",
        row="{id},IP_{group},male,45.0,unknown,benign,{label}", train="jpeg/train", test="jpeg/test",
        file="ISIC_{n}.jpg", id="ISIC_{n}", columns="image_name,target", blank="0", count=12,
    ),
    "dogs-vs-cats-redux-kernels-edition": lambda d: cats_and_dogs(d, test="test", blank="0.5"),
    "plant-pathology-2020-fgvc7": lambda d: one_hot(d, PLANTS, cycle(PLANTS, 12), key="image_id"),
    "plant-pathology-2021-fgvc8": lambda d: names(
        d, ["healthy", "scab frog_eye complex", "scab", "complex", "frog_eye", "scab frog_eye"] * 2, table="train.csv",
        header="image,labels", train="train_images", test="test_images", sample="sample_submission.csv",
    ),
    "ranzcr-clip-catheter-line-classification": lambda d: one_hot(
        d, ["ETT", "NGT", "CVC"], ["ETT NGT", "CVC", "ETT CVC", "NGT"] * 3, key="StudyInstanceUID", more="PatientID",
        train="train", test="test",
    ),
    "planet-understanding-the-amazon-from-space": lambda d: names(
        d, TAGS, table="train_v2.csv", header="image_name,tags", train="train-jpg", test="test-jpg",
        sample="sample_submission_v2.csv",
    ),
    "imet-2020-fgvc7": lambda d: names(
        d, ["448 2429", "448", "2429 782", "782", "448 782"] * 2, table="train.csv", header="id,attribute_ids",
        train="train", test="test", sample="sample_submission.csv",
    ),
    "humpback-whale-identification": lambda d: by_table(
        d, WHALES, header="Image,Id", columns="Image,Id", count=9, **FIVE
    ),
    "whale-categorization-playground": lambda d: by_table(
        d, WHALES, header="Image,Id", columns="Image,Id", count=13, **FIVE
    ),
    "happy-whale-and-dolphin": lambda d: by_table(
        d, WHALES, header="image,species,individual_id", row="{id},species_{group},{label}", train="train_images",
        test="test_images", columns="image,predictions", count=13, **FIVE,
    ),
    "hotel-id-2021-fgvc8": hotels,
    "leaf-classification": leaf,
    "state-farm-distracted-driver-detection": drivers,
    "dog-breed-identification": lambda d: by_table(
        d, DOGS, table="labels.csv", header="id,breed", file="f{n}.jpg", id="f{n}", count=12, **wide(DOGS)
    ),
    "the-nature-conservancy-fisheries-monitoring": lambda d: folders(
        d, FISH, test="test_stg1", sample="sample_submission_stg1.csv", **wide(FISH, "image")
    ),
    "intel-mobileodt-cervical-cancer-screening": lambda d: folders(
        d, CERVIX, test="test", sample="sample_submission.csv", **wide(CERVIX, "image_name")
    ),
    "cassava-disease": cassava,
    "cassava-leaf-disease-classification": lambda d: by_table(
        d, GRADES, header="image_id,label", train="train_images", test="test_images", columns="image_id,label", count=12
    ),
    "paddy-disease-classification": paddy,
    "plant-seedlings-classification": lambda d: folders(
        d, ["Black-grass", "Common wheat", "Maize"], test="test", sample="sample_submission.csv", columns="file,species"
    ),
    "sf-dl-car-classification": cars,
    "cifar-10": lambda d: by_table(
        d, ["airplane", "cat", "ship"], table="trainLabels.csv", file="{n}.png", id="{n}",
        sample="sampleSubmission.csv", count=12, first_test=1,
    ),
    "sorghum-id-fgvc-9": lambda d: by_table(
        d, ["PI_152591", "PI_152651", "PI_22913"], table="train_cultivar_mapping.csv", header="image,cultivar",
        train="train_images", columns="filename,cultivar", file="s{n}.png", id="s{n}.png", count=12,
    ),
    "iwildcam-2019-fgvc6": lambda d: by_table(
        d, ["0", "19", "8"], header="category_id,file_name,seq_id,location,width,height",
        row="{label},{id},s{k},{group},2048,1536", train="train_images", test="test_images", file="w{n}.jpg",
        id="w{n}.jpg", columns="Id,Predicted", blank="0", count=24,
    ),
    "ubc-ocean": lambda d: by_table(
        d, ["CC", "EC", "HGSC"], header="image_id,label,image_width,image_height,is_tma",
        row="{id},{label},23785,20008,False", train="train_images", test="test_images", file="{n}.png", id="{n}",
        columns="image_id,label", count=12,
    ),
    "aptos2019-blindness-detection": lambda d: by_table(
        d, GRADES, header="id_code,diagnosis", train="train_images", test="test_images", file="a{n}.png", id="a{n}",
        columns="id_code,diagnosis", blank="0", count=12,
    ),
    "diabetic-retinopathy-detection": lambda d: eyes(d),
    "prostate-cancer-grade-assessment": lambda d: by_table(
        d, GRADES, header="image_id,data_provider,isup_grade,gleason_score", row="{id},karolinska,{label},{label}+3",
        train="train_images", test="test_images", file="p{n}.tiff", id="p{n}", columns="image_id,isup_grade", count=12,
    ),
}  # fmt: skip


def eyes(data: Path) -> Layout:
    layout = Layout(data)
    keys = [f"{n}_{side}" for n in range(1, 9) for side in ("left", "right")]
    labels = [GRADES[number // 2 % 3] for number in range(len(keys))]
    layout.draw("train", [f"{key}.jpeg" for key in keys], labels)
    layout.table("trainLabels.csv", "image,level", *map(",".join, zip(keys, labels, strict=True)))
    layout.truth = {f"{n}_{side}": GRADES[n % 3] for n in (91, 92) for side in ("left", "right")}
    layout.draw("test", [f"{key}.jpeg" for key in layout.truth], list(layout.truth.values()))
    layout.table("sampleSubmission.csv", "image,level", *(f"{key},0" for key in layout.truth))
    return layout


def kit(line: str) -> str:
    """What a command line of the kit prints."""
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
    return done.output


def test_the_page_and_the_layouts_name_the_same_competitions() -> None:
    assert set(LINES) == set(LAYOUTS)
    assert len(LINES) >= 30


@pytest.mark.parametrize("slug", sorted(LAYOUTS))
def test_its_line_takes_it_from_the_data_to_a_score(slug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layout = LAYOUTS[slug](tmp_path / "download")
    solution = write_table(tmp_path / "solution.csv", "id,label", *map(",".join, layout.truth.items()))
    line = LINES[slug].replace("SLUG", slug).replace("DATA", str(layout.data))
    kit(line)
    competition = load_competition(slug, root=tmp_path)
    _, target, _, metric, submission, _ = ROWS[slug]
    assert competition.target == ("multilabel" if target == "several labels" else "single")
    assert competition.metric == METRICS_THERE[metric]
    assert competition.submission == FORMS_THERE[submission.split(" of ")[0]]
    if competition.submission == "probability":
        assert (competition.positive or "1") == submission.split(" of ")[1].strip("`")
    run = Run(competition, Workspace(tmp_path), RECIPE, "once")
    run.train(folds=[0])
    made = kit("kit submission make once")
    assert "it matches the sample submission" in made
    [path] = (tmp_path / "submissions" / slug).glob("*.csv")
    kit(f"kit submission check {path} --competition {slug}")
    hosted = hosted_from(competition, solution=solution)
    score = hosted.score(path)
    assert min(score.public, score.private) >= 0
