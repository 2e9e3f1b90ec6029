import copy
import random
import re
from pathlib import Path

import pytest
import yaml

from pipeline.errors import KitError, RecipeError
from pipeline.recipe import Recipe, Stage, load_recipe, parse_recipe, shipped_recipes, smoke

SMALL = {
    "name": "small",
    "backbone": "mobilenet-0.25",
    "weights": "none",
    "stages": [
        {"name": "head", "unfreeze": 0, "size": [32, 64], "epochs": 2, "learning_rate": 0.01},
        {"name": "all", "unfreeze": 1, "size": "mean", "epochs": 3, "learning_rate": 0.001},
    ],
}


def changed(path, value):
    content = copy.deepcopy(SMALL)
    target = content
    *parents, last = path.split(".")
    for part in parents:
        key = int(part) if part.isdigit() else part
        target = target.setdefault(key, {}) if isinstance(target, dict) else target[key]
    target[last] = value
    return content


def parse(content):
    return parse_recipe(content, source="small.yaml")


def refused(content):
    with pytest.raises(RecipeError) as caught:
        parse(content)
    assert "small.yaml" in caught.value.problem
    return caught.value.problem


def test_a_small_recipe():
    recipe = parse(SMALL)
    assert [stage.name for stage in recipe.stages] == ["head", "all"]
    assert recipe.stages[0].size == (32, 64)
    assert recipe.stages[1].optimizer.kind == "adam"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("bakbone", "x", "bakbone: unknown key; did you mean 'backbone'?"),
        ("stages.0.epoch", 3, "stages.0.epoch: unknown key; did you mean 'epochs'?"),
        ("stages.0.cosine", 3, "stages.0.cosine: unknown key"),
        ("zzzzzz", 1, "zzzzzz: unknown key"),
        ("epochs", 3, "epochs: has no effect here"),
        ("stages.1.epochs", "many", "stages.1.epochs: Input should be a valid integer"),
        ("stages.1.epochs", 0, "stages.1.epochs: Input should be greater than or equal to 1; received 0"),
        ("stages.1.epochs", 1.5, "stages.1.epochs: Input should be a valid integer"),
        ("stages.0.unfreeze", -0.1, "stages.0.unfreeze: Input should be greater than or equal to 0; received -0.1"),
        ("stages.0.unfreeze", 1.1, "stages.0.unfreeze: Input should be less than or equal to 1; received 1.1"),
        ("stages.0.learning_rate", 0, "stages.0.learning_rate: Input should be greater than 0"),
        ("stages.0.learning_rate", float("inf"), "stages.0.learning_rate: Input should be a finite number"),
        ("stages.0.learning_rate", float("nan"), "stages.0.learning_rate: Input should be a finite number"),
        ("stages.0.size", [32], "stages.0.size: "),
        ("stages.0.size", [4, 64], "stages.0.size"),
        ("stages.0.size", "big", "stages.0.size: "),
        ("stages.0.size", 0, "stages.0.size: "),
        ("stages.0.batch_norm", "trained", "batch_norm: trained has no effect while unfreeze is 0"),
        ("stages.0.layer_decay", 0.5, "layer_decay has no effect while unfreeze is 0"),
        ("stages.1.accumulate", 5, "accumulate must divide batch_size (32)"),
        ("stages.1.accumulate", 64, "accumulate must divide batch_size (32)"),
        ("stages.1.accumulate", 0, "stages.1.accumulate: Input should be greater than or equal to 1"),
        ("stages.1.layer_decay", 1.0, "stages.1.layer_decay: Input should be less than 1"),
        ("stages.1.ema", 1.0, "stages.1.ema: Input should be less than 1"),
        ("stages.1.mixup", 0, "stages.1.mixup: Input should be greater than 0"),
        ("stages.1.cutmix", -1, "stages.1.cutmix: Input should be greater than 0"),
        ("stages.0.optimizer", "adem", "stages.0.optimizer: "),
        ("stages.0.optimizer", {"kind": "adam", "momentum": 0.9}, "stages.0.optimizer.momentum: has no effect here"),
        ("stages.0.schedule", {"kind": "cosine", "warmup_epochs": 2}, "warmup_epochs must be below epochs (2)"),
        ("stages.0.schedule", {"kind": "constant", "patience": 2}, "stages.0.schedule.patience: has no effect here"),
        ("stages.1.name", "head", "stages must have different names; received ['head', 'head']"),
        ("stages", [], "stages: "),
        ("stages", "all", "stages: "),
        ("name", "A name", "name: String should match pattern"),
        ("label_smoothing", 1, "label_smoothing: Input should be less than 1"),
        ("tta", {"views": ["flip", "flip"]}, "views must differ from one another"),
        ("tta", {"views": ["flip"], "use": "never"}, "views have no effect with use: never"),
        ("tta", {"use": "always"}, "use: always has no effect without views"),
        ("head.dense", [0], "head.dense.0: Input should be greater than or equal to 1"),
        ("seed", -1, "seed: Input should be greater than or equal to 0"),
        ("precision", "float8", "precision: Input should be"),
    ],
)
def test_faults_are_named_with_their_place(path, value, message):
    assert f"- {message}" in refused(changed(path, value)) or message in refused(changed(path, value))


def test_missing_settings_are_named():
    problem = refused({"name": "x"})
    assert "- backbone: missing" in problem
    assert "- stages: missing" in problem


def test_every_fault_is_told_at_once():
    content = changed("stages.0.epochs", 0)
    content["seed"] = "x"
    problem = refused(content)
    assert "stages.0.epochs" in problem
    assert "seed" in problem


# Sizes


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("mean", (352, 640)),  # 346 / 32 = 10.81 → 11; 633 / 32 = 19.78 → 20
        (1.0, (352, 640)),
        (0.5, (160, 320)),  # 173 / 32 = 5.41 → 5; 316.5 / 32 = 9.89 → 10
        (0.01, (32, 32)),  # never nothing
        ([100, 50], (100, 50)),  # as given
        ({"square": 168}, (128, 224)),  # 168 / √(346 · 633) = 0.359; 124.2 / 32 = 3.88 → 4; 227.3 / 32 = 7.1 → 7
        ({"square": 4000}, (352, 640)),  # never more than there is
    ],
)
def test_resolve_size(size, expected):
    stage = Stage(name="s", unfreeze=0, size=size, epochs=1, learning_rate=1)
    assert stage.resolve_size((346.0, 633.0)) == expected


# Fingerprint


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("backbone", "mobilenet-0.5"),
        ("weights", "imagenet"),
        ("seed", 1),
        ("label_smoothing", 0.1),
        ("precision", "mixed_float16"),
        ("head.dropout", 0.3),
        ("tta.views", ["flip"]),
        ("stages.0.epochs", 3),
        ("stages.0.size", [64, 32]),
        ("stages.1.unfreeze", 0.9),
        ("stages.1.learning_rate", 0.002),
        ("stages.1.optimizer", "sgd"),
        ("stages.1.schedule", "cosine"),
        ("stages.1.augment", "heavy"),
        ("stages.1.augment", [{"HorizontalFlip": {"p": 0.5}}]),
        ("select_on", "fold"),
        ("end_on", "last"),
        ("stages.1.monitor", "score"),
        ("stages.1.early_stopping", {"patience": 2}),
        ("stages.1.batch_norm", "trained"),
        ("stages.1.batch_size", 16),
    ],
)
def test_the_fingerprint_changes_with_what_matters(path, value):
    watched = {"select_on": "inner"}  # some of these settings need something to watch
    assert parse({**watched, **changed(path, value)}).fingerprint() != parse({**watched, **SMALL}).fingerprint()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "other"),
        ("description", "said differently"),
        ("stages.0.name", "top"),
        ("seed", 0),
        ("stages.0.optimizer", {"kind": "adam"}),
        ("stages.0.learning_rate", 1e-2),
        ("stages.1.batch_size", 32),
    ],
)
def test_the_fingerprint_does_not_change_with_names_or_what_is_the_default_anyway(path, value):
    assert parse(changed(path, value)).fingerprint() == parse(SMALL).fingerprint()


@pytest.mark.parametrize(
    ("of_stage", "of_head"), [({}, {}), ({"batch_norm": "trained"}, {}), ({}, {"batch_norm": True})]
)
def test_parts_of_a_batch_matter_where_batch_norm_sees_them(of_stage, of_head):
    def recipe(accumulate):
        content = {**SMALL, "head": of_head}
        return {**content, "stages": [SMALL["stages"][0], {**SMALL["stages"][1], **of_stage, "accumulate": accumulate}]}

    seen = bool(of_stage or of_head)
    assert (parse(recipe(4)).fingerprint() != parse(recipe(1)).fingerprint()) == seen
    if seen:
        assert "with accumulate: auto the result would depend on the machine" in refused(recipe("auto"))
    else:
        assert parse(recipe("auto")).fingerprint() == parse(SMALL).fingerprint()


def test_pictures_at_once():
    found = [parse(changed("stages.1.accumulate", value)).stages[1].at_once for value in (1, 4, 32, "auto")]
    assert found == [32, 8, 1, 32]
    smallest = smoke(parse(changed("stages", [{**SMALL["stages"][1], "batch_size": 12, "accumulate": 6}])), side=32)
    assert (smallest.stages[0].batch_size, smallest.stages[0].accumulate) == (8, 2)


def test_the_order_of_stages_matters_and_that_of_keys_does_not():
    swapped = {**SMALL, "stages": SMALL["stages"][::-1]}
    assert parse(swapped).fingerprint() != parse(SMALL).fingerprint()
    assert parse(dict(reversed(SMALL.items()))).fingerprint() == parse(SMALL).fingerprint()


def test_extra_rows_are_part_of_the_fingerprint_in_any_order():
    without, one, two = (parse(changed("extra", names)) for names in ([], ["a"], ["a", "b"]))
    assert len({each.fingerprint() for each in (without, one, two)}) == 3
    assert parse(changed("extra", ["b", "a"])).fingerprint() == two.fingerprint()


@pytest.mark.parametrize("names", [["a", "a"], ["../a"], [1], "a"])
def test_extra_is_a_list_of_names_each_once(names):
    assert "extra" in refused(changed("extra", names))


def test_a_transform_that_contains_itself_is_refused():
    value: list = []
    value.append(value)
    assert "augment must hold plain values" in refused(changed("stages.0.augment", [{"HorizontalFlip": {"p": value}}]))


def test_the_fingerprint_of_a_weights_file_is_that_of_its_content(tmp_path):
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    first.write_bytes(b"weights")
    second.write_bytes(b"weights")
    before = parse(changed("weights", str(first))).fingerprint()
    assert parse(changed("weights", str(second))).fingerprint() == before
    first.write_bytes(b"other weights")
    assert parse(changed("weights", str(first))).fingerprint() != before


# Files and overrides


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return str(path)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_there_are_shipped_recipes():
    assert "demo" in shipped_recipes()


def test_overrides(file):
    overrides = [
        "stages.1.epochs=7",
        "head.dropout=0.5",
        "tta.views=[flip]",
        "stages.0.optimizer={kind: sgd, momentum: 0.8}",
        "stages.1.schedule.kind=cosine",
        "description=a = b",
        "stages.0.size.1=96",
    ]
    recipe = load_recipe(file, overrides=overrides)
    assert recipe.stages[1].epochs == 7
    assert recipe.head.dropout == 0.5
    assert recipe.tta.views == ("flip",)
    assert (recipe.stages[0].optimizer.kind, recipe.stages[0].optimizer.momentum) == ("sgd", 0.8)
    assert recipe.stages[1].schedule.kind == "cosine"
    assert recipe.description == "a = b"
    assert recipe.stages[0].size == (32, 96)
    assert load_recipe(file) == parse(SMALL)


def test_a_star_means_every_entry_of_a_list(file):
    recipe = load_recipe(file, overrides=["stages.*.schedule={kind: cosine}", "stages.*.epochs=9", "stages.1.epochs=8"])
    assert [stage.schedule.kind for stage in recipe.stages] == ["cosine", "cosine"]
    assert [stage.epochs for stage in recipe.stages] == [9, 8]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.0.epochs=3"], "it needs epochs: 1"),
        (["stages.0.mixup=0.2", "stages.0.schedule=cosine"], "it needs schedule: constant, mixup: null"),
        (["stages.0.unfreeze=0.5"], "it needs unfreeze: 0"),
        (["stages.0.monitor=score"], "it needs monitor: loss"),
        (["stages.0.accumulate=4"], "it needs accumulate: 1"),
        (["stages.0.feature_views=every", "stages.0.augment=light"], "it needs feature_views: 4"),
        (["label_smoothing=0.1"], "label_smoothing has no effect"),
        (["select_on=inner"], "select_on has no effect"),
        (["head.dense=[8]"], "fits the logits alone"),
        (["stages.0.optimizer={kind: logistic_regression, c: 0}"], "greater than 0"),
    ],
)
def test_what_a_logistic_regression_cannot_have(overrides, message):
    assert load_recipe("probe").stages[0].epochs == 1
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe("probe", overrides=overrides)


def test_a_trial_of_few_epochs_has_a_shorter_warm_up_and_says_so(file, caplog):
    warm = "stages.1.schedule={kind: cosine, warmup_epochs: 2}"
    text = yaml.safe_load(Path(file).read_text())
    text["stages"][1]["schedule"] = {"kind": "cosine", "warmup_epochs": 1}
    Path(file).write_text(yaml.safe_dump(text))
    assert load_recipe(file, overrides=["stages.*.epochs=1"]).stages[1].schedule.warmup_epochs == 0.5
    assert "stages.1.schedule.warmup_epochs is shortened from 1 to 0.5, as the stage has 1 epoch\n" in caplog.text
    caplog.clear()
    assert load_recipe(file, overrides=["stages.*.epochs=2"]).stages[1].schedule.warmup_epochs == 1
    assert not caplog.text
    with pytest.raises(RecipeError, match="warmup_epochs must be below epochs"):
        load_recipe(file, overrides=["stages.1.epochs=1", warm])  # named: meant


def test_the_last_override_counts(file):
    assert load_recipe(file, overrides=["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "cannot read the setting 'seed'"),
        ("=3", "cannot read the setting"),
        ("stages..epochs=3", "cannot read the setting"),
        ("stages.2.epochs=3", "stages has no entry '2'"),
        ("stages.-1.epochs=3", "stages has no entry '-1'"),
        ("stages.²=3", "stages has no entry '²'"),
        ("stages.head.epochs=3", "stages has no entry 'head'"),
        ("head.*.dropout=0", "head.*"),
        ("seed.deep=3", "seed is 0, which has no settings inside"),
        ("sede=3", "did you mean 'seed'?"),
        ("stages.0.epochs=three", "valid integer"),
        ("seed=[1", "is not YAML"),
        ("seed=0x_", "is not YAML"),
        ("stages.0.epochs=", "stages.0.epochs"),
    ],
)
def test_overrides_that_do_not_fit_are_refused(tmp_path, override, message):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "seed": 0}))
    with pytest.raises(KitError, match=re.escape(message)):
        load_recipe(str(path), overrides=[override])


def test_an_override_changes_one_place_where_the_file_names_one_object_twice(tmp_path):
    path = tmp_path / "anchors.yaml"
    path.write_text(
        """
name: anchors
backbone: b
stages:
- {name: a, unfreeze: 0, epochs: 4, learning_rate: 1, schedule: &cosine {kind: cosine, warmup_epochs: 1}}
- {name: b, unfreeze: 1, epochs: 4, learning_rate: 1, schedule: *cosine}
"""
    )
    recipe = load_recipe(str(path), overrides=["stages.0.schedule.warmup_epochs=2"])
    assert [stage.schedule.warmup_epochs for stage in recipe.stages] == [2, 1]


def test_there_is_no_such_recipe(tmp_path):
    with pytest.raises(RecipeError, match="no recipe 'dmeo'") as caught:
        load_recipe("dmeo")
    assert "did you mean 'demo'?" in caught.value.next_step
    with pytest.raises(RecipeError, match="no recipe file"):
        load_recipe(str(tmp_path / "away.yaml"))


@pytest.mark.parametrize("content", [b"a: [", b"- 1", b"", b"\xff\xfe\x00", b"name: x"])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(KitError, match=r"broken\.yaml"):
        load_recipe(str(path))


def test_whatever_stands_in_a_recipe_no_other_error_gets_out():
    """Random values in random places: a recipe, or a `RecipeError`."""
    random_ = random.Random(0)
    cycle: list = []
    cycle.append(cycle)
    junk = [
        None, True, -1, 0, 2, 10**400, 0.5, -0.0, float("nan"), float("inf"), "", "x", "mean", "²", "\0", b"x",
        [], [1], [None], [[1, 2]], {}, {"kind": "sgd"}, {"kind": None}, {1: 2}, {None: []}, {"": {}}, (1, 2),
        Path("x"), object(), cycle, {1, 2}, [{"HorizontalFlip": None}], [{"HorizontalFlip": {"p": cycle}}],
    ]  # fmt: skip
    keys = ["name", "backbone", "head", "stages", "tta", "seed", "kind", "epochs", "size", "optimizer", "x", 3, None]

    def places(value, found):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            found.append((value, key))
            if isinstance(inner, dict | list) and inner is not cycle:
                places(inner, found)
        return found

    full = parse(SMALL).model_dump(mode="json")
    outcomes = {True: 0, False: 0}
    for _ in range(600):
        content = copy.deepcopy(full)
        for _ in range(random_.randint(1, 2)):
            target, key = random_.choice(places(content, []))
            if isinstance(target, dict) and random_.random() < 0.2:
                key = random_.choice(keys)
            target[key] = random_.choice(junk)
        try:
            parse(content).fingerprint()
            outcomes[True] += 1
        except RecipeError:
            outcomes[False] += 1
    assert outcomes[True] > 5
    assert outcomes[False] > 200


def test_a_fault_inside_a_list_is_not_told_as_a_short_list_too():
    stage = {"name": "a", "unfreeze": 1, "epochs": 1, "learning_rate": 0.1, "schedule": "cosinus"}
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"name": "x", "backbone": "tiny", "stages": [stage]}, source="x")
    assert "stages.0.schedule: " in caught.value.problem
    assert "at least 1 item" not in caught.value.problem


@pytest.mark.parametrize(
    ("given", "meant"),
    [("fold", {"kind": "fold"}), ("last", {"kind": "last"}), ("inner", {"kind": "inner", "one_in": 10})],
)
def test_what_chooses_the_epochs_can_be_said_in_a_word(given, meant):
    assert parse(changed("select_on", given)).select_on.model_dump() == meant
    assert parse(changed("select_on", meant)) == parse(changed("select_on", given))


def test_nothing_chooses_unless_told():
    assert parse(SMALL).select_on.kind == "last"
    assert parse(SMALL).fingerprint() != parse(changed("select_on", "fold")).fingerprint()


def test_which_stage_a_fold_ends_on_is_a_setting_where_there_are_two():
    one = {**SMALL, "stages": SMALL["stages"][:1]}
    assert "end_on: last has no effect on one stage" in refused({**one, "end_on": "last"})
    assert not parse(one).chooses_stage
    assert parse(SMALL).chooses_stage
    assert not parse({**SMALL, "end_on": "last"}).chooses_stage


def test_regressions_of_two_sizes_can_be_chosen_from():
    linear = {"optimizer": "logistic_regression", "augment": "none"}
    two = [{"name": "small", "size": [32, 32], **linear}, {"name": "large", "size": [64, 64], **linear}]
    content = {"name": "two", "backbone": "tiny", "weights": "none", "stages": two, "select_on": "inner"}
    assert parse(content).select_on.kind == "inner"
    assert "select_on has no effect" in refused({**content, "end_on": "last"})


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("early_stopping", {"patience": 1}, "early_stopping"),
        ("schedule", "plateau", "schedule: plateau"),
        ("monitor", "score", "monitor: score"),
    ],
)
def test_nothing_can_be_watched_where_nothing_chooses(path, value, named):
    content = changed(f"stages.1.{path}", value)
    parse({**content, "select_on": "inner"})
    assert f"stage all: {named} has no effect with select_on: last, the default" in refused(
        {**content, "select_on": "last"}
    )


def test_how_many_rows_choose_belongs_to_inner_alone():
    assert "select_on" in refused(changed("select_on", {"kind": "last", "one_in": 5}))
    assert "select_on" in refused(changed("select_on", {"kind": "inner", "one_in": 1}))
