"""Data sets: a private one, or a new version of it, made of the files in a folder."""

from pathlib import Path

from pipeline.submit.kaggle_answers import state
from pipeline.submit.kaggle_errors import KaggleError, NoAccess, Refused, Unreachable
from pipeline.submit.kaggle_session import Session

_SHORTEST, _LONGEST = 6, 50


def status(session: Session, ref: str) -> str | None:
    owner, slug = _split(ref)
    try:
        answer = session.ask("datasets", "GetDatasetStatus", owner_slug=owner, dataset_slug=slug)
    except NoAccess:
        return None
    return state(answer, first="NOT_YET_PERSISTED")


def upload(session: Session, folder: Path, *, ref: str, title: str, notes: str, progress: bool) -> None:
    owner, slug = _split(ref)
    _check_lengths(slug, title)
    exists = status(session, ref) is not None
    tokens = [
        session.upload(file, "blobs", "StartBlobUpload", type="DATASET", name=file.name, progress=progress)
        for file in _files(folder)
    ]
    files = [session.message("datasets", "ApiDatasetNewFile", token=token) for token in tokens]
    if exists:
        body = session.message("datasets", "ApiCreateDatasetVersionRequestBody", version_notes=notes, files=files)
        _make(session, "CreateDatasetVersion", ref, owner_slug=owner, dataset_slug=slug, body=body)
    else:
        _make(
            session,
            "CreateDataset",
            ref,
            owner_slug=owner,
            slug=slug,
            title=title,
            license_name="other",  # exactly one is demanded; the files carry their own
            is_private=True,
            files=files,
        )


def _make(session: Session, method: str, ref: str, **fields: object) -> None:
    def make() -> bool:
        answer = session.call("datasets", method, **fields)
        if answer.get("error") or str(answer.get("status")).lower() != "ok":
            raise Refused(
                f"the data set {ref} was not made: {answer.get('error') or answer.get('status')}",
                expected="files, a title and an owner that Kaggle takes",
                next_step="mend what it says, then run the command again",
            )
        return True

    def find() -> bool | None:
        if method == "CreateDataset":
            return True if status(session, ref) is not None else None
        raise Unreachable(
            "a new version cannot be told from the one before it", expected="an answer", next_step="upload it again"
        )

    session.retry.once(make, find=find, what=f"a version of the data set {ref}")


def _split(ref: str) -> tuple[str, str]:
    owner, _, slug = ref.partition("/")
    if not owner or not slug or "/" in slug:
        raise KaggleError(f"{ref!r} names no data set", expected="OWNER/SLUG", next_step="as in your-name/wheels")
    return owner, slug


def _check_lengths(slug: str, title: str) -> None:
    for what, text in (("slug", slug), ("title", title)):
        if not _SHORTEST <= len(text) <= _LONGEST:
            raise KaggleError(
                f"the data set's {what} {text!r} has {len(text)} characters",
                expected=f"{_SHORTEST} to {_LONGEST}",
                next_step="choose another name",
            )


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    folders = [path.name for path in found if not path.is_file()]
    if folders or not found:
        raise KaggleError(
            f"{folder} holds {'the folder ' + folders[0] if folders else 'no file'}",
            expected="files: a data set is uploaded file by file, and Kaggle unpacks a zip",
            next_step="zip the folder" if folders else "put the files there",
        )
    return found
