"""Competitions as the real client sees them: what they are, downloads, submissions, limits."""

import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import requests
from kaggle.api.kaggle_api_extended import KaggleApi
from kagglesdk.competitions.types.competition_api_service import (
    ApiCreateSubmissionRequest,
    ApiDownloadDataFilesRequest,
    ApiGetCompetitionRequest,
    ApiGetSubmissionRequest,
    ApiStartSubmissionUploadRequest,
)

from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.server import Rehearsal
from tests.rehearsal.conftest import until, write_csv

Connect = Callable[[], KaggleApi]


@pytest.fixture
def csv(rehearsal: Rehearsal, tmp_path: Path) -> Path:
    """A submission without a fault."""
    return write_csv(tmp_path / "all-right.csv", rehearsal.hosted["tiny"].solution)


def status_of(failed: Any) -> int:
    """The status of the error that the client raised."""
    status: int = failed.value.response.status_code
    return status


def competition_of(api: KaggleApi, slug: str) -> Any:
    request = ApiGetCompetitionRequest()
    request.competition_name = slug
    with api.build_kaggle_client() as client:
        return client.competitions.competition_api_client.get_competition(request)


def submission_of(api: KaggleApi, ref: int) -> Any:
    request = ApiGetSubmissionRequest()
    request.ref = ref
    with api.build_kaggle_client() as client:
        return client.competitions.competition_api_client.get_submission(request)


def test_a_file_is_submitted_and_scored(api: KaggleApi, csv: Path, rehearsal: Rehearsal) -> None:
    answer = api.competition_submit(str(csv), "the first [7f3a]", "tiny", quiet=True)
    assert answer.ref > 0 and answer.message == "Successfully submitted to tiny"
    [submission] = api.competition_submissions("tiny")
    assert (submission.ref, submission.description) == (answer.ref, "the first [7f3a]")
    assert (submission.file_name, submission.total_bytes) == ("all-right.csv", csv.stat().st_size)
    assert (submission.status.name, submission.error_description) == ("COMPLETE", "")
    assert (submission.public_score, submission.private_score) == ("1.00000", "1.00000")
    assert abs((datetime.now(UTC).replace(tzinfo=None) - submission.date).total_seconds()) < 60
    assert submission_of(api, answer.ref).public_score == "1.00000"


def test_a_file_that_cannot_be_scored_is_taken_and_ends_in_an_error(api: KaggleApi, tmp_path: Path) -> None:
    ref = api.competition_submit(str(write_csv(tmp_path / "s.csv", {"t0.jpg": "blue"})), "", "tiny", quiet=True).ref
    submission = submission_of(api, ref)
    assert (submission.status.name, submission.public_score) == ("ERROR", "")
    assert submission.error_description == "5 ids are missing: t1.jpg, t2.jpg, t3.jpg, t4.jpg, t5.jpg"


def test_a_score_takes_its_time(rehearse: Callable[..., Rehearsal], connect: Connect, tmp_path: Path) -> None:
    rehearsal = rehearse(scoring_seconds=0.5)
    api = connect()
    csv = write_csv(tmp_path / "s.csv", rehearsal.hosted["tiny"].solution)
    before = time.monotonic()
    ref = api.competition_submit(str(csv), "", "tiny", quiet=True).ref
    pending = submission_of(api, ref)
    assert (pending.status.name, pending.public_score, pending.private_score) == ("PENDING", "", "")
    until(lambda: submission_of(api, ref).status.name == "COMPLETE")
    assert time.monotonic() - before >= 0.5


def test_the_limit_is_of_the_day_in_utc(rehearse: Callable[..., Rehearsal], connect: Connect, tmp_path: Path) -> None:
    elsewhere = timezone(timedelta(hours=2))
    clock = [datetime(2026, 3, 2, 1, 59, tzinfo=elsewhere)]
    rehearsal = rehearse(daily_limit=2, now=lambda: clock[0])
    api = connect()
    csv = write_csv(tmp_path / "s.csv", rehearsal.hosted["tiny"].solution)
    for left in (1, 0):
        api.competition_submit(str(csv), "", "tiny", quiet=True)
        limits = api.competition_get_submission_limits("tiny")
        assert (limits.num_today, limits.num_allowed_now) == (2 - left, left)
    with pytest.raises(requests.HTTPError, match="daily Submission allowance \\(2\\)") as failed:
        api.competition_submit(str(csv), "", "tiny", quiet=True)
    assert status_of(failed) == 400
    assert {str(submission.date) for submission in api.competition_submissions("tiny")} == {"2026-03-01 23:59:00"}
    clock[0] = datetime(2026, 3, 2, 2, 0, tzinfo=elsewhere)
    limits = api.competition_get_submission_limits("tiny")
    assert (limits.num_today, limits.num_total, limits.num_allowed_now) == (0, 2, 2)
    assert api.competition_submit(str(csv), "", "tiny", quiet=True).ref == 3


def test_submissions_come_in_pages_the_newest_first(
    rehearse: Callable[..., Rehearsal], connect: Connect, tmp_path: Path
) -> None:
    rehearsal = rehearse(daily_limit=100)
    api = connect()
    csv = write_csv(tmp_path / "s.csv", rehearsal.hosted["tiny"].solution)
    for number in range(7):
        api.competition_submit(str(csv), f"number {number}", "tiny", quiet=True)

    def seen(**paging: Any) -> list[int]:
        return [submission.ref for submission in api.competition_submissions("tiny", **paging)]

    assert seen(page_size=3) == [7, 6, 5]
    assert seen(page_size=3, page_number=2) == [4, 3, 2]
    assert seen(page_size=3, page_token="6") == [1]
    assert seen(page_size=3, page_number=4) == []


def test_a_submission_needs_its_upload(api: KaggleApi, csv: Path, rehearsal: Rehearsal) -> None:
    rehearsal.faults.append(Fault("Upload", "403", 0))
    answer = api.competition_submit(str(csv), "", "tiny", quiet=True)
    assert (answer.ref, answer.message) == (0, "Could not submit to competition")
    assert api.competition_submissions("tiny") == []


def test_a_submission_needs_an_upload_of_its_own_that_is_whole(api: KaggleApi, rehearsal: Rehearsal) -> None:
    rehearsal.hosted["other"] = replace(rehearsal.hosted["tiny"], slug="other")
    start, create = ApiStartSubmissionUploadRequest(), ApiCreateSubmissionRequest()
    start.competition_name, start.file_name, start.content_length = "tiny", "s.csv", 2
    with api.build_kaggle_client() as client:
        competitions = client.competitions.competition_api_client
        upload = competitions.start_submission_upload(start)
        assert requests.put(upload.create_url, data=b"x").status_code == 308
        for slug, token in (("tiny", upload.token), ("tiny", "made-up"), ("other", upload.token)):
            create.competition_name, create.blob_file_tokens = slug, token
            with pytest.raises(requests.HTTPError, match="not found, or its upload is not complete") as failed:
                competitions.create_submission(create)
            assert status_of(failed) == 400
            if token == "made-up":
                assert requests.put(upload.create_url, data=b"xy").status_code == 200
        create.competition_name = "tiny"
        assert competitions.create_submission(create).ref == 1


def test_what_a_competition_says_of_itself(api: KaggleApi, rehearsal: Rehearsal) -> None:
    found = competition_of(api, "tiny")
    assert (found.user_has_entered, found.is_kernels_submissions_only) == (True, False)
    assert (found.max_daily_submissions, found.evaluation_metric) == (5, "accuracy")
    assert found.ref == "http://localhost/competitions/tiny"
    rehearsal.hosted["tiny"] = replace(rehearsal.hosted["tiny"], code_only=True)
    assert competition_of(api, "tiny").is_kernels_submissions_only


def test_code_competitions_refuse_files(api: KaggleApi, csv: Path, rehearsal: Rehearsal) -> None:
    rehearsal.hosted["tiny"] = replace(rehearsal.hosted["tiny"], code_only=True)
    with pytest.raises(requests.HTTPError, match="only accepts Submissions from Notebooks") as failed:
        api.competition_submit(str(csv), "", "tiny", quiet=True)
    assert status_of(failed) == 400


@pytest.mark.parametrize("slug", ["tiny", "tinny"])
def test_unaccepted_rules_and_misspelt_slugs_are_answered_alike(
    api: KaggleApi, csv: Path, rehearsal: Rehearsal, tmp_path: Path, slug: str
) -> None:
    rehearsal.hosted["tiny"] = replace(rehearsal.hosted["tiny"], entered=False)
    for call in (
        lambda: api.competition_submit(str(csv), "", slug, quiet=True),
        lambda: api.competition_submissions(slug),
        lambda: api.competition_get_submission_limits(slug),
        lambda: api.competition_list_files(slug),
        lambda: api.competition_download_files(slug, str(tmp_path)),
        lambda: api.competition_download_file(slug, "train.csv", str(tmp_path)),
    ):
        with pytest.raises(requests.HTTPError, match="was denied") as failed:
            call()
        assert status_of(failed) == 403
    if slug == "tiny":
        assert competition_of(api, slug).user_has_entered is False
    else:
        with pytest.raises(requests.HTTPError, match="was denied"):
            competition_of(api, slug)


def test_files_are_listed_in_pages(api: KaggleApi, rehearsal: Rehearsal) -> None:
    first = api.competition_list_files("tiny")
    rest = api.competition_list_files("tiny", page_token=first.next_page_token)
    assert (len(first.files), len(rest.files), rest.next_page_token) == (20, 12, "")
    data = rehearsal.hosted["tiny"].data
    expected = {path.relative_to(data).as_posix(): path.stat().st_size for path in data.rglob("*") if path.is_file()}
    assert {file.name: file.total_bytes for file in [*first.files, *rest.files]} == expected


def test_data_are_downloaded_whole(api: KaggleApi, rehearsal: Rehearsal, tmp_path: Path) -> None:
    api.competition_download_files("tiny", str(tmp_path / "to"))
    data = rehearsal.hosted["tiny"].data
    with zipfile.ZipFile(tmp_path / "to" / "tiny.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            path.relative_to(data).as_posix(): path.read_bytes() for path in data.rglob("*") if path.is_file()
        }


def test_one_file_is_downloaded(api: KaggleApi, rehearsal: Rehearsal, tmp_path: Path) -> None:
    api.competition_download_file("tiny", "test/t1.jpg", str(tmp_path / "to"), quiet=True)
    expected = (rehearsal.hosted["tiny"].data / "test" / "t1.jpg").read_bytes()
    [file] = (tmp_path / "to").rglob("t1.jpg")  # from kaggle 2.2.5 on in its folder, to/test
    assert file.read_bytes() == expected
    for name in ("test/t9.jpg", "../solution.csv", "test"):
        with pytest.raises(requests.HTTPError, match="has no file") as failed:
            api.competition_download_file("tiny", name, str(tmp_path))
        assert status_of(failed) == 404


def test_the_client_goes_on_with_a_download_that_was_cut_off(
    api: KaggleApi, rehearsal: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    rehearsal.faults.append(Fault("Download", "drop"))
    api.competition_download_files("tiny", str(tmp_path))
    gets = [path for method, path in rehearsal.requests if method == "GET"]
    assert gets == ["/storage/tiny.zip"] * 2
    with zipfile.ZipFile(tmp_path / "tiny.zip") as archive:
        assert archive.testzip() is None


@pytest.fixture
def address(api: KaggleApi, tmp_path: Path) -> str:
    """Where the zip is, as the client was told."""
    request = ApiDownloadDataFilesRequest()
    request.competition_name = "tiny"
    with api.build_kaggle_client() as client:
        with client.competitions.competition_api_client.download_data_files(request) as answer:
            return str(answer.url)


def test_ranges(address: str) -> None:
    whole = requests.get(address)
    assert (whole.status_code, whole.headers["Accept-Ranges"]) == (200, "bytes")
    size = len(whole.content)

    def part(wanted: str, **headers: str) -> tuple[int, str | None, bytes]:
        answer = requests.get(
            address, headers={"Range": wanted, **{k.replace("_", "-"): v for k, v in headers.items()}}
        )
        return answer.status_code, answer.headers.get("Content-Range"), answer.content

    assert part("bytes=10-19") == (206, f"bytes 10-19/{size}", whole.content[10:20])
    assert part(f"bytes={size - 5}-") == (206, f"bytes {size - 5}-{size - 1}/{size}", whole.content[-5:])
    assert part(f"bytes=0-{size + 5}") == (206, f"bytes 0-{size - 1}/{size}", whole.content)
    assert part(f"bytes={size}-") == (416, f"bytes */{size}", b"")
    for same in ("ETag", "Last-Modified"):
        assert part("bytes=10-19", If_Range=whole.headers[same])[0] == 206
    assert part("bytes=10-19", If_Range='"another"') == (200, None, whole.content)


def test_addresses_hold_for_what_they_were_given_for(address: str, rehearsal: Rehearsal) -> None:
    plain, signature = address.split("?")
    assert requests.get(plain).status_code == 403
    assert requests.get(plain.replace("tiny.zip", "tiny/train.csv") + "?" + signature).status_code == 403
    rehearsal.hosted["tiny"] = replace(rehearsal.hosted["tiny"], entered=False)
    assert requests.get(address).status_code == 404


def test_changed_data_are_packed_anew(address: str, rehearsal: Rehearsal) -> None:
    before = requests.get(address)
    assert requests.get(address).headers["ETag"] == before.headers["ETag"]
    (rehearsal.hosted["tiny"].data / "more.txt").write_text("more")
    after = requests.get(address)
    assert after.headers["ETag"] != before.headers["ETag"] and len(after.content) > len(before.content)


def test_a_corrupt_download_has_the_right_size_and_wrong_bytes(
    address: str, rehearsal: Rehearsal, tmp_path: Path
) -> None:
    whole = requests.get(address).content
    rehearsal.faults.append(Fault("Download", "corrupt"))
    corrupt = requests.get(address).content
    assert len(corrupt) == len(whole)
    assert sum(a != b for a, b in zip(corrupt, whole, strict=True)) == 64
    assert requests.get(address).content == whole
