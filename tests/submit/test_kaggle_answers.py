"""What is read from Kaggle's JSON, where it leaves things out or writes them in its own way."""

from datetime import UTC, datetime

import pytest

from pipeline.submit.kaggle_answers import CompetitionInfo, Limits, Quota, RemoteSubmission, plain_log, state


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("COMPLETE", "COMPLETE"),
        ("complete", "COMPLETE"),
        ("cancelAcknowledged", "CANCEL_ACKNOWLEDGED"),
        ("CANCEL_REQUESTED", "CANCEL_REQUESTED"),
        ("", "QUEUED"),
        (None, "QUEUED"),
        (7, "QUEUED"),
    ],
)
def test_a_status_is_read_in_any_spelling(written: object, read: str) -> None:
    assert state({"status": written}, first="QUEUED") == read


def test_defaults_may_be_left_out() -> None:
    assert Limits.read({}) == Limits(0, 0, 0, False)
    assert Quota.read({}) == Quota(0.0, 0.0, None)
    info = CompetitionInfo.read("tiny", {})
    assert (info.entered, info.daily_limit, info.metric) == (False, 0, "")
    assert info.url == "https://www.kaggle.com/c/tiny"
    submission = RemoteSubmission.read({"ref": "12"})
    assert (submission.ref, submission.status, submission.time, submission.public) == (12, "PENDING", None, None)


@pytest.mark.parametrize(
    "text", ["2026-02-03T04:05:06.789Z", "2026-02-03T04:05:06.789", "2026-02-03T05:05:06.789+01:00"]
)
def test_a_time_is_utc(text: str) -> None:
    time = RemoteSubmission.read({"date": text}).time
    assert time == datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)


def test_kaggle_s_seven_digits_of_a_second_are_read() -> None:
    time = RemoteSubmission.read({"date": "2026-02-03T04:05:06.7891234Z"}).time
    assert time == datetime(2026, 2, 3, 4, 5, 6, 789123, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "number"), [("0.98765", 0.98765), ("", None), (None, None), ("nan", None), ("-", None)]
)
def test_a_score_is_a_number_or_none(text: str | None, number: float | None) -> None:
    assert RemoteSubmission.read({"publicScore": text}).public == number


def test_gpu_time_is_in_seconds() -> None:
    quota = Quota.read({"gpuQuota": {"timeUsed": "5400.5s", "totalTimeAllowed": "108000s"}})
    assert (quota.used_s, quota.allowed_s) == (5400.5, 108000.0)


@pytest.mark.parametrize(
    ("log", "text"),
    [
        ('[{"stream_name": "stdout", "data": "a\\n"}, {"stream_name": "stderr", "data": "b"}]', "a\nb"),
        ("plain", "plain"),
        ("", ""),
        ("7", "7"),
        ('{"data": 1}', '{"data": 1}'),
        ('[{"other": 1}]', '[{"other": 1}]'),
        ("[]", ""),
    ],
)
def test_a_log_is_unwrapped(log: str, text: str) -> None:
    assert plain_log(log) == text
