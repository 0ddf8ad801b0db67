"""CIFAR-10: fetched, verified, read offline, and no pickle opened that was not verified.

The archive here is a small one of the real layout; the real checksums are exchanged for its.
"""

import contextlib
import errno
import gzip
import hashlib
import io
import pickle
import re
import socket
import tarfile
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from sfl.data import cifar10
from sfl.data import download as downloading
from sfl.data.dataset import Dataset
from sfl.data.sources import load_dataset
from sfl.errors import Exit, UserError
from tests.conftest import refusal

NAMES = [name for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)]
CLASSES = ["airplane", "automobile", "bird"]
ARCHIVE = CIFAR10.filename
PER_BATCH = 2  # images


class Warning2009:
    """Unpickled, it warns, as the arrays of 2009 do under some versions of numpy."""

    def __reduce__(self) -> Any:
        return warnings.warn, ("this is how dtypes were written in 2009",)


def pixels(batch: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Image i of batch b: red 10 b + i, green 100 + 10 b + i, blue 200 + i, first pixel 255."""
    data = np.empty((PER_BATCH, 3, 1024), dtype=np.uint8)
    for i in range(PER_BATCH):
        data[i] = np.array([10 * batch + i, 100 + 10 * batch + i, 200 + i])[:, None]
    data[:, :, 0] = 255
    return data.reshape(PER_BATCH, 3072)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def packed(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        folder = tarfile.TarInfo(CIFAR10.base_folder)
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items():
            info = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(archive.getvalue(), mtime=0)  # the same bytes at any time of day


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of the archive; these are expected now."""
    made = {
        name: pickle.dumps({"data": pixels(b), "labels": [b % 3, 2], "batch_label": Warning2009()})
        for b, name in enumerate(NAMES)
    }
    made["batches.meta"] = pickle.dumps({"label_names": CLASSES, "num_vis": 3072})
    made["readme.html"] = b"<a href=http://www.cs.toronto.edu/>"
    sums = [[name, md5(made[name])] for name in NAMES]
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(made["batches.meta"])}
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(CIFAR10, "meta", meta)
    monkeypatch.setattr(cifar10, "SHA256", sha256(packed(made)))
    return made


@pytest.fixture
def archive(files: dict[str, bytes]) -> bytes:
    return packed(files)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a connection is told that there is no network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and parts of files by Range unless their name says "whole".

    most: the bytes that it sends, whatever it has promised.
    """

    asked: ClassVar[list[tuple[str, str | None]]] = []  # the paths and ranges, in order
    most: int | None = None

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append((self.path.strip("/"), wanted))
        path = Path(self.translate_path(self.path))
        if wanted is None or "whole" in self.path or not path.is_file():
            return super().do_GET()
        content, start = path.read_bytes(), int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.copyfile(io.BytesIO(content[start:]), self.wfile)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        outputfile.write(source.read()[: self.most])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    Handler.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "data"


def unpack(files: dict[str, bytes], root: Path) -> Path:
    folder = root / str(CIFAR10.base_folder)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def load(root: Path, mirror: str | None = None) -> Dataset:
    return load_dataset("cifar10", root=root, mirror=mirror)


def check(dataset: Dataset) -> None:
    assert dataset.classes == tuple(CLASSES) and dataset.source == "cifar10"
    assert dataset.train.images.shape == (10, 3, 32, 32) and len(dataset.test) == 2
    assert dataset.train.images.dtype == torch.uint8 and dataset.train.labels.dtype == torch.int64
    assert dataset.train.images[:, :, 0, 0].eq(255).all()
    assert dataset.train.images[3, :, 9, 20].tolist() == [11, 111, 201]  # batch 1, image 1
    assert dataset.test.images[0, :, 31, 31].tolist() == [50, 150, 200]
    assert dataset.train.labels.tolist() == [0, 2, 1, 2, 2, 2, 0, 2, 1, 2]
    assert dataset.test.labels.tolist() == [2, 2]


refused = partial(refusal, Exit.DATA, load)


# --- fetching


@pytest.mark.parametrize("address", ["{}", "{}/", "{}/cifar-10-python.tar.gz"])
def test_fetched_through_a_mirror_and_then_used_offline(
    served: tuple[Path, str],
    archive: bytes,
    root: Path,
    address: str,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    folder, url = served
    (folder / ARCHIVE).write_bytes(archive)
    check(load(root, mirror=address.format(url)))
    assert [path.name for path in root.iterdir()] == [ARCHIVE]
    assert (root / ARCHIVE).read_bytes() == archive
    output = capsys.readouterr()
    assert output.out == "" and "\r" not in output.err and f"{url}/{ARCHIVE}" in output.err
    request.getfixturevalue("offline")
    check(load(root))


def test_what_a_killed_download_left_goes_and_nothing_else(
    served: tuple[Path, str], archive: bytes, root: Path
) -> None:
    folder, url = served
    (folder / ARCHIVE).write_bytes(archive)
    root.mkdir(parents=True)
    (root / f".{ARCHIVE}.abc.sfl.tmp").mkdir()
    (root / f".{ARCHIVE}.abc.sfl.tmp" / ARCHIVE).write_bytes(b"half")
    (root / ".tmp-of-another-program").touch()
    check(load(root, url))
    assert sorted(path.name for path in root.iterdir()) == [".tmp-of-another-program", ARCHIVE]


def test_two_at_once_fetch_it_once(
    served: tuple[Path, str], archive: bytes, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = served
    (folder / ARCHIVE).write_bytes(archive)
    slow, fetch, fetched = threading.Barrier(2), downloading._download, []

    def fetching_slowly(*given: Any, **more: Any) -> None:
        fetched.append(given)
        with contextlib.suppress(threading.BrokenBarrierError):
            slow.wait(timeout=0.5)  # until the other one fetches, too, if nothing keeps it
        fetch(*given, **more)

    monkeypatch.setattr(downloading, "_download", fetching_slowly)
    with ThreadPoolExecutor(2) as threads:
        for dataset in threads.map(lambda _: load(root, url), range(2)):
            check(dataset)
    assert len(fetched) == 1 and [path.name for path in root.iterdir()] == [ARCHIVE]


def sources(monkeypatch: pytest.MonkeyPatch, *urls: str) -> None:
    monkeypatch.setattr(cifar10, "SOURCES", urls)


def test_the_sources_and_the_hash_are_the_published_ones() -> None:
    first, *others = cifar10.SOURCES
    assert first == CIFAR10.url and len(others) == 2
    assert all(url.startswith("https://") and url.endswith(ARCHIVE) for url in cifar10.SOURCES)
    assert cifar10.SHA256.startswith("6d958be0") and len(cifar10.SHA256) == 64


def test_after_a_failure_the_next_source_is_tried(
    served: tuple[Path, str],
    archive: bytes,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, url = served
    names = ("missing", "login", "good", "other")
    sources(monkeypatch, *(f"{url}/{name}" for name in names))
    (folder / "login").write_bytes(b"<html>Please log in</html>")
    (folder / "good").write_bytes(archive)
    check(load(root))
    assert [path.name for path in root.iterdir()] == [ARCHIVE]
    assert [path for path, _ in Handler.asked] == ["missing", "login", "good"]
    said = capsys.readouterr().err
    assert f"{url}/missing: HTTP 404 File not found; trying {url}/login\n" in said
    assert f"{url}/login: it is another file: 26 bytes with SHA-256" in said
    assert f"{ARCHIVE}: downloaded from {url}/good, its SHA-256 is right\n" in said


def test_a_mirror_is_the_only_source(
    served: tuple[Path, str], archive: bytes, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = served
    sources(monkeypatch, f"{url}/good")
    (folder / "good").write_bytes(archive)
    refused(root, f"{url}/missing.tar.gz")
    assert [path for path, _ in Handler.asked] == ["missing.tar.gz"]


def test_a_slow_source_is_left_unless_it_is_the_last(
    served: tuple[Path, str],
    archive: bytes,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, url = served
    monkeypatch.setattr(downloading, "PATIENCE", 0.0)
    monkeypatch.setattr(downloading, "SLOW", float("inf"))
    sources(monkeypatch, f"{url}/one", f"{url}/two")
    (folder / "one").write_bytes(archive)
    (folder / "two").write_bytes(archive)
    check(load(root))
    said = capsys.readouterr().err
    assert f"{url}/one: too slow, " in said and f"downloaded from {url}/two" in said


def test_something_else_from_a_server_is_not_kept(
    served: tuple[Path, str], archive: bytes, root: Path
) -> None:
    folder, url = served
    (folder / ARCHIVE).write_bytes(b"<html>Please log in</html>")
    line = refused(root, url)
    assert f"from {url}/{ARCHIVE}: it is another file: 26 bytes" in line and sha256(archive) in line
    assert list(root.iterdir()) == []


def test_a_download_that_breaks_off_goes_on(
    served: tuple[Path, str], archive: bytes, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = served
    (folder / ARCHIVE).write_bytes(archive)
    monkeypatch.setattr(Handler, "most", len(archive) // 3 + 1)
    check(load(root, url))
    assert len(Handler.asked) == 3
    assert [path.name for path in root.iterdir()] == [ARCHIVE]


@pytest.mark.parametrize(("name", "came"), [("a", [100, 200, 300]), ("whole", [100, 100, 100])])
def test_a_download_that_breaks_off_is_told_as_that_and_kept(
    served: tuple[Path, str],
    archive: bytes,
    root: Path,
    name: str,
    came: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, url = served
    (folder / f"{name}.tar.gz").write_bytes(archive)
    with monkeypatch.context() as patch:
        patch.setattr(Handler, "most", 100)
        line, said = refused(root, f"{url}/{name}.tar.gz"), capsys.readouterr().err
    for kept in came[:2]:
        assert f": broke off after {kept} B of {len(archive)} B; trying to go on\n" in said
    assert f"{name}.tar.gz: broke off after {came[2]} B of {len(archive)} B " in line
    assert f"the next try goes on after {came[2]} B" in line and "another file" not in line
    (folder / "good.tar.gz").write_bytes(archive)
    check(load(root, f"{url}/good.tar.gz"))  # another server
    assert Handler.asked[-1] == ("good.tar.gz", f"bytes={came[2]}-")
    assert [path.name for path in root.iterdir()] == [ARCHIVE]


def test_a_part_of_another_file_is_begun_anew_once(
    served: tuple[Path, str], archive: bytes, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, url = served
    (folder / ARCHIVE).write_bytes(archive)
    partial = root / f".{ARCHIVE}.part"
    for kept in (b"something else", archive + b"more", archive):  # the last is only to be named
        root.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(kept)
        Handler.asked.clear()
        check(load(root, url))
        again = [] if kept == archive else [(ARCHIVE, None)]
        assert Handler.asked == [(ARCHIVE, f"bytes={len(kept)}-"), *again]
        assert ("downloading it from the start" in capsys.readouterr().err) == bool(again)
        assert [path.name for path in root.iterdir()] == [ARCHIVE]
        (root / ARCHIVE).unlink()


def test_ctrl_c_keeps_what_has_come(
    served: tuple[Path, str], archive: bytes, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = served
    (folder / ARCHIVE).write_bytes(archive)
    came = iter([archive[:100]])

    def interrupted(_: object) -> bytes:
        if piece := next(came, None):
            return piece
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(downloading, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(root, url)
    assert [path.name for path in root.iterdir()] == [f".{ARCHIVE}.part"]
    check(load(root, url))
    assert Handler.asked[-1] == (ARCHIVE, "bytes=100-")
    assert [path.name for path in root.iterdir()] == [ARCHIVE]


def test_a_full_disk_is_told_as_that(
    served: tuple[Path, str], archive: bytes, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = served
    (folder / ARCHIVE).write_bytes(archive)

    def full(*_: object) -> Iterator[None]:
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    monkeypatch.setattr(downloading, "_copy", full)
    with pytest.raises(UserError, match="no space left on the disk") as caught:
        load(root, url)
    assert caught.value.exit_code == Exit.RESOURCES


def test_a_server_without_it(served: tuple[Path, str], files: object, root: Path) -> None:
    assert f"from {served[1]}/{ARCHIVE}: HTTP 404" in refused(root, served[1])


@pytest.mark.usefixtures("files", "offline")
def test_no_network_says_where_and_what_else_can_be_done(root: Path) -> None:
    line = refused(root)
    reason = "[Errno 101] Network is unreachable"
    assert f"{ARCHIVE} can't be downloaded from {CIFAR10.url}: {reason}; from https://zen" in line
    assert "data.mirror" in line and "data.source=shapes" in line
    assert f"put {ARCHIVE} into {root}" in line
    assert list(root.iterdir()) == []


@pytest.mark.usefixtures("files", "offline")
def test_a_mirror_that_is_no_url(root: Path) -> None:
    assert "unknown url type" in refused(root, "mirror.example")


@pytest.mark.usefixtures("files", "offline")
def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refused(tmp_path / "file" / "data")
    assert "Not a directory" in line and "data.root" in line


@pytest.mark.usefixtures("files", "offline")
def test_a_root_that_cannot_be_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != root)  # whoever runs the tests
    line = refused(root)
    assert f"{root}: nothing can be saved there: Permission denied" in line and "data.root" in line


# --- what is there already


@pytest.mark.usefixtures("offline")
def test_an_archive_in_root_is_read_and_nothing_is_written(archive: bytes, root: Path) -> None:
    root.mkdir(parents=True)
    (root / ARCHIVE).write_bytes(archive)
    check(load(root))
    assert [path.name for path in root.iterdir()] == [ARCHIVE]


@pytest.mark.usefixtures("offline")
def test_the_unpacked_folder_in_root_is_read(files: dict[str, bytes], root: Path) -> None:
    unpack(files, root)
    check(load(root))


@pytest.mark.usefixtures("offline")
def test_the_unpacked_folder_as_root_is_read(files: dict[str, bytes], root: Path) -> None:
    check(load(unpack(files, root)))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", cifar10.ARCHIVES)
def test_the_archive_under_the_names_that_keras_gives_it(
    archive: bytes, root: Path, name: str
) -> None:
    root.mkdir(parents=True)
    (root / name).write_bytes(archive)
    check(load(root))
    check(load(root / name))
    assert [path.name for path in root.iterdir()] == [name]


@pytest.mark.usefixtures("files", "offline")
@pytest.mark.parametrize(
    "name",
    [
        "trainLabels.csv",
        "train-00000-of-00001.parquet",
        "plain_text/a.parquet",
        "x.npz",
        "train/cat/1.png",
    ],
)
def test_another_form_of_it_is_named(
    root: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / name).parent.mkdir(parents=True)
    (root / name).touch()
    refused(root)
    told = f"{root / name} looks like ".replace("/1.png", "")
    assert told in (said := capsys.readouterr().err) and "docs/data.md" in said
    with pytest.raises(UserError, match=re.escape(told)):
        load_dataset("cifar10", root=root, fetch=False)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "text"])
def test_a_damaged_archive_is_named_and_left_alone(archive: bytes, root: Path, damage: str) -> None:
    flipped = bytearray(archive)
    flipped[len(flipped) // 2] ^= 1
    content = {
        "flipped": bytes(flipped),
        "truncated": archive[:-100],
        "empty": b"",
        "text": b"404: not found",
    }[damage]
    root.mkdir(parents=True)
    (root / ARCHIVE).write_bytes(content)
    line = refused(root)
    assert f"{root / ARCHIVE} is damaged: {len(content)} bytes" in line
    assert f"expected SHA-256 {sha256(archive)}" in line and "remove the file" in line
    assert (root / ARCHIVE).read_bytes() == content


# --- pickles that would run code


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def fuse(tmp_path: Path) -> Iterator[Path]:
    """Exists as soon as a bomb was unpickled; the test fails if it does."""
    path = tmp_path / "exploded"
    pickle.loads(pickle.dumps(Bomb(path)))
    assert path.exists()  # the bomb works
    path.unlink()
    yield path
    assert not path.exists()


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_5", "test_batch", "batches.meta"])
def test_a_tampered_unpacked_file_is_not_opened(
    files: dict[str, bytes],
    archive: bytes,
    root: Path,
    fuse: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = unpack(files | {name: pickle.dumps(Bomb(fuse))}, root)
    assert "Network is unreachable" in refused(root)
    assert f"{folder / name} is damaged" in capsys.readouterr().err
    (root / ARCHIVE).write_bytes(archive)
    check(load(root))


@pytest.mark.usefixtures("offline")
def test_an_incomplete_unpacked_folder_gives_way_to_the_archive(
    files: dict[str, bytes], archive: bytes, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = unpack(files, root)
    (folder / "data_batch_3").unlink()
    (root / ARCHIVE).write_bytes(archive)
    check(load(root))
    assert f"{folder / 'data_batch_3'} can't be read" in capsys.readouterr().err


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("archive_matches", [False, True])
def test_a_tampered_archive_is_not_opened(
    files: dict[str, bytes],
    root: Path,
    fuse: Path,
    archive_matches: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tampered = packed(files | {"test_batch": pickle.dumps(Bomb(fuse))})
    if archive_matches:
        monkeypatch.setattr(cifar10, "SHA256", sha256(tampered))
    root.mkdir(parents=True)
    (root / ARCHIVE).write_bytes(tampered)
    expected = f"test_batch in {root / ARCHIVE}" if archive_matches else str(root / ARCHIVE)
    assert f"{expected} is damaged" in refused(root)
