"""Tables as people write them: with tabs, semicolons or blanks, with a header or without."""

import pytest

from pipeline.data.tables import read_table
from pipeline.errors import DataError


def read(tmp_path, text, name="t.csv"):
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    table = read_table(tmp_path / name)
    return list(table.columns), table.to_numpy().tolist()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("id,label\n01,a b\n", "t.csv"),
        ("id\tlabel\n01\ta b\n", "t.csv"),
        ("id;label\n01;a b\n", "t.csv"),
        ("id;label\r\n01;a b\r\n", "t.csv"),
        ('"id","label"\n"01","a b"\n', "t.txt"),
        ("id\tlabel\n01\ta b\n", "t.tsv"),
        ("\ufeffid,label\n01,a b\n", "t.csv"),
        ("id,label\n01,a b", "t.csv"),
        ("\nid,label\n\n01,a b\n", "t.csv"),
        ("id,label,\n01,a b,\n", None),
        ("id,label\n01,a b,\n", "t.csv"),
    ],
)
def test_what_stands_between_the_values(tmp_path, text, name):
    columns, rows = read(tmp_path, text, name or "t.csv")
    assert (columns[:2], [row[:2] for row in rows]) == (["id", "label"], [["01", "a b"]])
    assert len(columns) == (2 if name else 3)


def test_blanks_stand_between_values_in_a_text_alone(tmp_path):
    assert read(tmp_path, "id label\n1  a\n", "t.txt") == (["id", "label"], [["1", "a"]])
    assert read(tmp_path, "id label\n1  a\n", "t.csv") == (["id label"], [["1  a"]])


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("1.jpg,a\n2.jpg,b\n", [["1.jpg", "a"], ["2.jpg", "b"]]),
        ("a,train/1.PNG\nb,train/2.PNG\n", [["a", "train/1.PNG"], ["b", "train/2.PNG"]]),
        ("7,a\n8,b\n", [["7", "a"], ["8", "b"]]),
        ("1.jpg,a\n", [["1.jpg", "a"]]),
        ("1.jpg,a\n1.jpg,a\n", [["1.jpg", "a"], ["1.jpg", "a"]]),
    ],
)
def test_a_table_without_a_header(tmp_path, text, rows):
    assert read(tmp_path, text) == (["column 1", "column 2"], rows)


@pytest.mark.parametrize("header", ["id,label", ",label", "0,1", "2,label", "id,1", "file.name,label"])
def test_what_is_a_header(tmp_path, header):
    columns, rows = read(tmp_path, f"{header}\n{'x' if header[0] == '2' else '7'},a\n")
    assert columns[1] == header.split(",")[1]
    assert len(rows) == 1


@pytest.mark.parametrize(
    "text", ["id,label\n1,a,b\n", "id,label\n1,a\n2,b,c\n", "id,label\n\n1,a,b\n", "1.jpg,a\n2.jpg,b,c\n"]
)
def test_values_beyond_the_header_are_not_lost(tmp_path, text):
    with pytest.raises(DataError, match=r"t\.csv cannot be read") as caught:
        read(tmp_path, text)
    assert "between quotes" in caught.value.expected
    assert "more values" in caught.value.problem or "Expected 2 fields" in caught.value.problem


def test_an_empty_table(tmp_path):
    with pytest.raises(DataError, match=r"t\.csv cannot be read"):
        read(tmp_path, "")
    assert read(tmp_path, "id,label\n") == (["id", "label"], [])
