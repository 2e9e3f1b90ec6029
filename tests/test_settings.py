import pytest
from pydantic import ValidationError

from pipeline.errors import KitError
from pipeline.settings import Settings, explain, parse_mapping, read_mapping


class Inner(Settings):
    depth: int = 1


class Outer(Settings):
    width: float = 1.0
    inner: Inner = Inner()


def explained(content):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(content)
    return explain(caught.value, Outer)


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Outer().width = 2


@pytest.mark.parametrize(
    "text",
    ["a: [1", "a: b: c", "- 1\n- 2", "just text", "", "3", "a: 2001-99-99", "a: 0x_", "\tkey: 1", "[" * 500],
)
def test_what_is_not_a_mapping_is_an_error_that_names_the_source(text):
    with pytest.raises(KitError, match=r"there\.yaml"):
        parse_mapping(text, source="there.yaml")


def test_yaml_runs_no_code(tmp_path):
    with pytest.raises(KitError):
        parse_mapping(f"a: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']", source="x")
    assert not (tmp_path / "made").exists()


def test_a_file_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("a: größe".encode("latin-1"))
    with pytest.raises(KitError, match=r"latin\.yaml cannot be read"):
        read_mapping(path)


def test_each_fault_has_a_line_with_its_place():
    text = explained({"widht": 2, "inner": {"depth": "deep"}})
    assert text.splitlines() == [
        "  - inner.depth: Input should be a valid integer, unable to parse string as an integer; received 'deep'",
        "  - widht: unknown key; did you mean 'width'?",
    ]


def test_a_known_key_in_the_wrong_place_has_no_effect():
    assert explained({"depth": 1}) == "  - depth: has no effect here"


def test_a_key_that_is_no_text_is_a_fault():
    assert "1" in explained({1: 2})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_are_finite(value):
    assert "finite" in explained({"width": value})
