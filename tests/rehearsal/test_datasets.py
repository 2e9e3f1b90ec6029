"""Uploads and data sets as the real client makes them."""

import json
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from kaggle.api.kaggle_api_extended import KaggleApi
from kagglesdk.blobs.types.blob_api_service import ApiBlobType, ApiStartBlobUploadRequest
from kagglesdk.datasets.types.dataset_api_service import ApiCreateDatasetRequest, ApiDatasetNewFile

from pipeline.rehearsal.faults import Fault
from pipeline.rehearsal.server import Rehearsal
from tests.rehearsal.conftest import PlainRunner, state_of, until, write_kernel

REF = "rehearsal-user/some-wheels"


def write_dataset(folder: Path, **metadata: Any) -> Path:
    """A folder to upload: a wheel, a zip of a folder, a text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.txt").write_text("a")
    for name in ("pack.zip", "some-1.0-py3-none-any.whl"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("inner/b.txt", "b")
    content = {"id": REF, "title": "Some wheels", "licenses": [{"name": "CC0-1.0"}], **metadata}
    (folder / "dataset-metadata.json").write_text(json.dumps(content))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start_upload(api: KaggleApi, size: int, *, kind: ApiBlobType = ApiBlobType.DATASET) -> Any:
    request = ApiStartBlobUploadRequest()
    request.type, request.name, request.content_length = kind, "a.bin", size
    with api.build_kaggle_client() as client:
        return client.blobs.blob_api_client.start_blob_upload(request)


def create(api: KaggleApi, **changes: Any) -> Any:
    """CreateDataset as it is, without what the client checks before."""
    request = ApiCreateDatasetRequest()
    settings = {
        "slug": "some-wheels",
        "title": "Some wheels",
        "owner_slug": "rehearsal-user",
        "license_name": "CC0-1.0",
    }
    for name, value in {**settings, **changes}.items():
        setattr(request, name, value)
    with api.build_kaggle_client() as client:
        return client.datasets.dataset_api_client.create_dataset(request)


def test_a_data_set_is_made_and_gets_ready(api: KaggleApi, tmp_path: Path) -> None:
    with pytest.raises(requests.HTTPError, match="was denied") as failed:
        api.dataset_status(REF)
    assert failed.value.response.status_code == 403
    answer = api.dataset_create_new(str(write_dataset(tmp_path / "d")), quiet=True)
    assert (answer.status, answer.url) == ("ok", f"http://localhost/datasets/{REF}") and not answer.error
    assert [api.dataset_status(REF) for _ in range(3)] == ["blobs_received", "ready", "ready"]
    again = api.dataset_create_new(str(tmp_path / "d"), quiet=True)
    assert again.status == "error" and "already in use" in again.error


def test_kernels_see_its_files_with_zips_unpacked(
    rehearse: Callable[..., Rehearsal], runner: PlainRunner, connect: Callable[[], KaggleApi], tmp_path: Path
) -> None:
    rehearse(runner=runner)
    api = connect()
    folder = write_dataset(tmp_path / "d")
    api.dataset_create_new(str(folder), quiet=True)
    wheel = (folder / "some-1.0-py3-none-any.whl").read_bytes()
    (folder / "a.txt").write_text("new")
    assert api.dataset_create_version(str(folder), "notes", quiet=True).status == "ok"
    for source, there in ((REF, True), (f"{REF}/1", True), (f"{REF}/3", False), ("somebody/some-wheels", False)):
        answer = api.kernels_push(str(write_kernel(tmp_path / "k", "", dataset_sources=[source])))
        assert answer.invalid_dataset_sources == ([] if there else [source])
        until(lambda: state_of(api) == "COMPLETE")
    latest, first = (call["inputs"][f"datasets/{REF}"] for call in runner.calls[:2])
    assert contents(first) == {"a.txt": b"a", "pack/inner/b.txt": b"b", "some-1.0-py3-none-any.whl": wheel}
    assert contents(latest) == {**contents(first), "a.txt": b"new"}


def test_a_new_version_has_to_get_ready_again(api: KaggleApi, tmp_path: Path) -> None:
    folder = str(write_dataset(tmp_path / "d"))
    api.dataset_create_new(folder, quiet=True)
    assert [api.dataset_status(REF) for _ in range(2)] == ["blobs_received", "ready"]
    api.dataset_create_version(folder, "notes", quiet=True)
    assert [api.dataset_status(REF) for _ in range(2)] == ["blobs_received", "ready"]


@pytest.mark.parametrize(
    ("changes", "status", "complaint"),
    [
        ({"slug": "short"}, 400, "slug must be between 6 and 50"),
        ({"slug": "x" * 51}, 400, "slug must be between 6 and 50"),
        ({"title": "Short"}, 400, "title must be between 6 and 50"),
        ({"slug": "Big-Letters"}, 400, "is no dataset slug"),
        ({"slug": "../../etc"}, 400, "is no dataset slug"),
        ({"license_name": ""}, 400, "exactly one license"),
        ({"owner_slug": "somebody"}, 403, "was denied"),
        ({}, 400, "at least one file"),
    ],
)
def test_data_sets_that_cannot_be(api: KaggleApi, changes: dict[str, str], status: int, complaint: str) -> None:
    with pytest.raises(requests.HTTPError, match=complaint) as failed:
        create(api, **changes)
    assert failed.value.response.status_code == status


def test_a_data_set_needs_whole_uploads(api: KaggleApi) -> None:
    upload = start_upload(api, 4)
    file = ApiDatasetNewFile()
    file.token = upload.token
    for _ in range(2):
        with pytest.raises(requests.HTTPError, match="upload is not complete"):
            create(api, files=[file])
        assert requests.put(upload.create_url, data=b"12").status_code == 308
    requests.put(upload.create_url, data=b"1234")
    assert create(api, files=[file]).status == "ok"


def test_a_zip_that_is_none_is_refused(api: KaggleApi, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d")
    (folder / "pack.zip").write_text("no zip")
    with pytest.raises(requests.HTTPError, match=r"pack\.zip is no zip file"):
        api.dataset_create_new(str(folder), quiet=True)


def test_a_zip_stays_in_its_folder(
    rehearse: Callable[..., Rehearsal], connect: Callable[[], KaggleApi], tmp_path: Path
) -> None:
    rehearsal = rehearse()
    folder = write_dataset(tmp_path / "d")
    with zipfile.ZipFile(folder / "pack.zip", "w") as archive:
        archive.writestr("../../../../../out.txt", "out")
    connect().dataset_create_new(str(folder), quiet=True)
    assert list(rehearsal.folder.rglob("out.txt")) == [*rehearsal.folder.glob("datasets/*/1/pack/out.txt")]
    assert not list(tmp_path.glob("out.txt"))


@pytest.mark.parametrize("what", ["503", "drop"])
def test_the_client_resumes_an_upload_where_the_server_lost_it(
    rehearse: Callable[..., Rehearsal],
    runner: PlainRunner,
    connect: Callable[[], KaggleApi],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    rehearsal = rehearse(runner=runner)
    folder = tmp_path / "d"
    write_dataset(folder)
    for name in ("pack.zip", "some-1.0-py3-none-any.whl", "a.txt"):
        (folder / name).unlink()
    (folder / "big.bin").write_bytes(bytes(range(256)) * 4000)
    rehearsal.faults.append(Fault("Upload", what))
    assert connect().dataset_create_new(str(folder), quiet=True).status == "ok"
    puts = [path for method, path in rehearsal.requests if method == "PUT"]
    assert len(puts) > 1 and len(set(puts)) == 1
    [stored] = rehearsal.folder.glob("datasets/some-wheels/1/*")
    assert stored.read_bytes() == bytes(range(256)) * 4000


def test_ranges_of_an_upload(api: KaggleApi) -> None:
    upload = start_upload(api, 10)

    def put(body: bytes, content_range: str | None = None) -> tuple[int, str | None]:
        headers = {"Content-Range": content_range} if content_range else {}
        answer = requests.put(upload.create_url, data=body, headers=headers)
        return answer.status_code, answer.headers.get("Range")

    assert put(b"", "bytes */10") == (308, None)
    assert put(b"0123", "bytes 0-3/10") == (308, "bytes=0-3")
    assert put(b"", "bytes */10") == (308, "bytes=0-3")
    assert put(b"78", "bytes 7-8/10")[0] == 400
    assert put(b"", "bytes */11")[0] == 400
    assert put(b"456789", "bytes 4-9/10") == (200, None)
    assert put(b"", "bytes */10") == (200, None)
    assert put(b"01234567890")[0] == 400
    assert put(b"9876543210") == (200, None)
    assert put(b"0123", "bytes 0-3/10") == (308, "bytes=0-3")  # begun anew: what was there is gone
    assert put(b"", "bytes */10") == (308, "bytes=0-3")
    assert requests.put(upload.create_url + "x", data=b"1").status_code == 404
    assert requests.put(upload.create_url, data=iter([b"98765", b"43210"])).status_code == 411


@pytest.mark.parametrize(
    ("what", "status", "kept"), [("503", 503, 5), ("308", 308, 5), ("403", 403, None), ("429", 429, None)]
)
def test_uploads_that_fail(api: KaggleApi, rehearsal: Rehearsal, what: str, status: int, kept: int | None) -> None:
    upload = start_upload(api, 10)
    rehearsal.faults.append(Fault("Upload", what))
    assert requests.put(upload.create_url, headers={"Content-Range": "bytes */10"}).status_code == 308
    answer = requests.put(upload.create_url, data=b"0123456789")
    assert answer.status_code == status
    assert answer.headers.get("Retry-After") == ("0" if what == "429" else None)
    asked = requests.put(upload.create_url, headers={"Content-Range": "bytes */10"})
    assert asked.headers.get("Range") == (f"bytes=0-{kept - 1}" if kept else None)


def test_a_refused_upload_is_read_to_its_end(api: KaggleApi, rehearsal: Rehearsal) -> None:
    # A connection closed before is reset, and the client may never see the answer.
    size = 1 << 24
    upload = start_upload(api, size)
    rehearsal.faults.append(Fault("Upload", "403"))
    path = upload.create_url.removeprefix("http://localhost")
    with socket.create_connection(("127.0.0.1", rehearsal.port), timeout=5) as connection:
        connection.sendall(f"PUT {path} HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode())
        connection.sendall(bytes(size))
        assert connection.recv(12) == b"HTTP/1.1 403"


def test_an_upload_is_cut_off_while_the_client_sends(api: KaggleApi, rehearsal: Rehearsal) -> None:
    upload = start_upload(api, 10)
    rehearsal.faults.append(Fault("Upload", "drop"))
    path = upload.create_url.removeprefix("http://localhost")
    with socket.create_connection(("127.0.0.1", rehearsal.port), timeout=5) as connection:
        connection.sendall(f"PUT {path} HTTP/1.1\r\nContent-Length: 10\r\n\r\n".encode() + b"01234")
        assert connection.recv(1) == b""
    asked = requests.put(upload.create_url, headers={"Content-Range": "bytes */10"})
    assert asked.headers["Range"] == "bytes=0-4"


def test_an_upload_that_arrived_although_nobody_said_so(api: KaggleApi, rehearsal: Rehearsal) -> None:
    upload = start_upload(api, 10)
    rehearsal.faults.append(Fault("Upload", "lost"))
    with pytest.raises(requests.ConnectionError):
        requests.put(upload.create_url, data=b"0123456789")
    assert requests.put(upload.create_url, headers={"Content-Range": "bytes */10"}).status_code == 200


def test_only_data_sets_have_blobs(api: KaggleApi) -> None:
    with pytest.raises(requests.HTTPError, match="type DATASET"):
        start_upload(api, 1, kind=ApiBlobType.MODEL)
