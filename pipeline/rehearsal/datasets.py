"""Uploads and data sets over the wire."""

import re
import secrets
import shutil
import zipfile
from pathlib import Path
from typing import Any

from pipeline.artifacts import atomic_folder
from pipeline.rehearsal.state import Blob, DataSet, State, Store
from pipeline.rehearsal.wire import USER, Answer, Refused, Request, deny, text_of


class DataSets:
    def __init__(self, store: Store) -> None:
        self._store = store

    def start_blob_upload(self, request: Request, base: str) -> Answer:
        if text_of(request, "type") != "DATASET":
            raise Refused(400, "Only uploads of type DATASET are known here")
        return self.start_upload(text_of(request, "name"), request, base)

    def start_upload(self, name: str, request: Request, base: str, *, purpose: str = "") -> Answer:
        """Promise a place for a file: where to PUT it, and the token that stands for it.

        Raises:
            Refused: The request names no file, or no size.
        """
        size = request.get("contentLength") or 0
        if not name or Path(name).name != name or not isinstance(size, int) or size < 0:
            raise Refused(400, "An upload needs a plain file name and a content length")
        token = secrets.token_hex(16)
        with self._store.change() as state:
            state.blobs[token] = Blob(name=name, size=size, purpose=purpose)
        return {"token": token, "createUrl": f"{base}/upload/{token}"}

    def get_dataset_status(self, request: Request, _base: str) -> Answer:
        if text_of(request, "ownerSlug") != USER:
            deny("datasets.get")
        with self._store.read() as state:
            dataset = state.datasets.get(text_of(request, "datasetSlug"))
            if dataset is None:
                deny("datasets.get")
            was_ready = dataset.ready
        if not was_ready:
            with self._store.change():
                dataset.ready = True
        return {"status": "READY" if was_ready else "BLOBS_RECEIVED"}

    def create_dataset(self, request: Request, base: str) -> Answer:
        slug, title = text_of(request, "slug"), text_of(request, "title")
        self._require_owner(request)
        for what, value in (("slug", slug), ("title", title)):
            if not 6 <= len(value) <= 50:
                raise Refused(400, f"The dataset {what} must be between 6 and 50 characters")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug):
            raise Refused(400, f"{slug!r} is no dataset slug")
        if not text_of(request, "licenseName"):
            raise Refused(400, "Please specify exactly one license")
        with self._store.change() as state:
            if slug in state.datasets or any(known.title == title for known in state.datasets.values()):
                error = f'The requested title "{title}" is already in use by a dataset. Please choose another title.'
                return {"status": "error", "error": error}
            dataset = DataSet(title=title)
            self._add_version(state, slug, dataset, request.get("files"))
            state.datasets[slug] = dataset
        return _created(slug, base)

    def create_dataset_version(self, request: Request, base: str) -> Answer:
        slug = text_of(request, "datasetSlug")
        self._require_owner(request)
        body = request.get("body")
        with self._store.change() as state:
            if slug not in state.datasets:
                deny("datasets.update")
            self._add_version(state, slug, state.datasets[slug], body.get("files") if isinstance(body, dict) else None)
        return _created(slug, base)

    def folder_of(self, source: str) -> Path | None:
        """The files of `owner/slug` or `owner/slug/version`; None where there are none."""
        owner, slug, wanted = (*source.split("/"), "", "")[:3]
        with self._store.read() as state:
            dataset = state.datasets.get(slug)
            if owner != USER or dataset is None:
                return None
            number = int(wanted) if wanted.isdecimal() else dataset.versions
            return self._store.dataset(slug, number) if 1 <= number <= dataset.versions else None

    def _add_version(self, state: State, slug: str, dataset: DataSet, files: Any) -> None:
        tokens = [text_of(file, "token") for file in files or [] if isinstance(file, dict)]
        if not tokens:
            raise Refused(400, "A dataset needs at least one file")
        target = self._store.dataset(slug, dataset.versions + 1)
        shutil.rmtree(target, ignore_errors=True)  # what a server left that died before it wrote its state
        with atomic_folder(target) as folder:
            for token in tokens:
                blob = state.blobs.get(token)
                path = self._store.blob(token)
                if blob is None or blob.purpose or not path.is_file() or path.stat().st_size != blob.size:
                    raise Refused(400, "A file is not uploaded, or its upload is not complete")
                _unpack(path, folder, blob.name)
        dataset.versions += 1
        dataset.ready = False

    def _require_owner(self, request: Request) -> None:
        if text_of(request, "ownerSlug") != USER:
            deny("datasets.create")


def _unpack(path: Path, folder: Path, name: str) -> None:
    """Put a file into a data set; a zip becomes the folder it was made of, as on Kaggle."""
    if not name.lower().endswith(".zip"):
        shutil.copyfile(path, folder / name)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder / Path(name).stem)
    except zipfile.BadZipFile:
        raise Refused(400, f"{name} is no zip file") from None


def _created(slug: str, base: str) -> Answer:
    return {"ref": f"/{USER}/{slug}", "url": f"{base}/datasets/{USER}/{slug}", "status": "ok", "error": ""}
