import pytest

from pipeline.data.labels import label_variants, natural


def pairs(*labels: str) -> set[frozenset[str]]:
    return {frozenset((found.label, found.variant)) for found in label_variants(labels)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ace of club", "ace of clubs"),
        ("Ace of Clubs", "ace of clubs"),
        ("ace_of_clubs", "ace of clubs"),
        ("ace-of  clubs ", "ace of clubs"),
        ("aceofclubs", "ace of clubs"),
        ("volkswagen", "volkswagon"),
        ("cafe\u0301", "caf\u00e9"),
        ("01", "1"),
        ("type 02", "Type 2"),
    ],
)
def test_one_label_written_in_two_ways(one: str, other: str) -> None:
    assert pairs(one, other) == {frozenset((one, other))}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10", "1"),
        ("-1", "1"),
        ("1 0", "10"),
        ("1.0", "10"),
        ("type 1", "type 11"),
        ("class1", "class2"),
        ("king of clubs", "ring of clubs"),
        ("four of clubs", "five of clubs"),
        ("four of clubs", "four of spades"),
        ("male", "female"),
        ("c", "c++"),
        ("cat", "cats and dogs"),
    ],
)
def test_two_labels(one: str, other: str) -> None:
    assert pairs(one, other) == set()


def test_the_one_with_more_rows_is_the_label() -> None:
    (found,) = label_variants(["ace of club", "ace of clubs", "ace of clubs"])
    assert (found.label, found.rows, found.variant, found.variant_rows) == ("ace of clubs", 2, "ace of club", 1)
    assert found.why == "club / clubs"


def test_labels_stand_in_the_order_of_a_person() -> None:
    assert sorted(["c10", "C2", "c1", "10", "9", "b 2.10", "b 2.9", "", "٣"], key=natural) == [
        *("", "٣", "9", "10", "b 2.9", "b 2.10", "c1", "C2", "c10"),
    ]
