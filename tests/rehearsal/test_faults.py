"""Faults as text, and how often they strike."""

import pytest

from pipeline.errors import KitError
from pipeline.rehearsal.faults import METHODS, Fault, take
from pipeline.rehearsal.server import Rehearsal


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("CreateSubmission=503", Fault("CreateSubmission", "503", 1)),
        ("*=hang*0", Fault("*", "hang", 0)),
        (" GetCompetition=nested:403*2 ", Fault("GetCompetition", "nested:403", 2)),
        ("Output=corrupt", Fault("Output", "corrupt", 1)),
    ],
)
def test_a_fault_is_read_from_text(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault


@pytest.mark.parametrize(
    "text",
    [
        "",
        "503",
        "Bogus=503",
        "createsubmission=503",
        "Upload",
        "Upload=",
        "Upload=200",
        "Upload=nested:drop",
        "Upload=503*",
        "Upload=corrupt",
        "*=quota",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(KitError, match="is no fault"):
        Fault.parse(text)


def test_the_methods_that_may_fail_are_those_that_are_answered(rehearsal: Rehearsal) -> None:
    assert set(METHODS) == set(rehearsal.protocol._methods)
    with pytest.raises(KitError, match=r"CreateSubmission, .*Upload, Download, Output, or \*"):
        Fault.parse("CreateSubmision=503")


@pytest.mark.parametrize("text", ["Upload=503", "GetCompetition=nested:403*2", "*=hang*0"])
def test_a_fault_is_written_as_it_is_read(text: str) -> None:
    assert str(Fault.parse(text)) == text


def test_a_fault_strikes_as_often_as_it_says() -> None:
    faults = [Fault("Upload", "503", 2), Fault("*", "drop", 0)]
    assert [take(faults, method) for method in ("Upload", "Output", "Upload", "Upload")] == [
        "503",
        "drop",
        "503",
        "drop",
    ]
    assert faults == [Fault("*", "drop", 0)]
    assert faults[0].struck == 2
    assert take([Fault("Upload", "503")], "Download") is None
