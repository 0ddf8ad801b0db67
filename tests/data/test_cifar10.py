"""CIFAR-10: fetched, verified, read offline, and no pickle opened that was not verified.

The archive here is a small one of the real layout; torchvision's checksums are exchanged for its.
"""

import contextlib
import gzip
import hashlib
import io
import pickle
import socket
import tarfile
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from sfl.data import cifar10
from sfl.data.dataset import Dataset
from sfl.data.sources import load_dataset
from sfl.errors import Exit, UserError

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
    """The files of the archive; torchvision now expects these."""
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
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(packed(made)))
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
    """Serves a folder; of a file named cut.tar.gz it sends only half of what it promised."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        outputfile.write(content[: len(content) // 2] if "cut" in self.path else content)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
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


def refused(root: Path, mirror: str | None = None) -> str:
    """The line that the user sees instead of a data set."""
    with pytest.raises(UserError) as caught:
        load(root, mirror)
    assert caught.value.exit_code == Exit.DATA
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
    slow, fetch, fetched = threading.Barrier(2), cifar10._download_verified, []

    def fetching_slowly(*given: Any) -> None:
        fetched.append(given)
        with contextlib.suppress(threading.BrokenBarrierError):
            slow.wait(timeout=0.5)  # until the other one fetches, too, if nothing keeps it
        fetch(*given)

    monkeypatch.setattr(cifar10, "_download_verified", fetching_slowly)
    with ThreadPoolExecutor(2) as threads:
        for dataset in threads.map(lambda _: load(root, url), range(2)):
            check(dataset)
    assert len(fetched) == 1 and [path.name for path in root.iterdir()] == [ARCHIVE]


def test_without_a_mirror_it_comes_from_its_authors(
    served: tuple[Path, str], archive: bytes, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (served[0] / "original.tar.gz").write_bytes(archive)
    monkeypatch.setattr(CIFAR10, "url", f"{served[1]}/original.tar.gz")
    check(load(root))
    assert (root / ARCHIVE).exists()


def test_something_else_from_a_server_is_not_kept(
    served: tuple[Path, str], archive: bytes, root: Path
) -> None:
    folder, url = served
    (folder / ARCHIVE).write_bytes(b"<html>Please log in</html>")
    line = refused(root, url)
    assert f"{url}/{ARCHIVE} is not the CIFAR-10 archive" in line and md5(archive) in line
    assert list(root.iterdir()) == []


def test_a_download_that_breaks_off_is_not_kept(
    served: tuple[Path, str], archive: bytes, root: Path
) -> None:
    folder, url = served
    (folder / "cut.tar.gz").write_bytes(archive)
    assert f"{len(archive) // 2} bytes" in refused(root, f"{url}/cut.tar.gz")
    assert list(root.iterdir()) == []


def test_an_interrupted_download_does_not_spoil_the_next(
    served: tuple[Path, str], archive: bytes, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = served
    (folder / ARCHIVE).write_bytes(archive)

    def interrupted(*_: object) -> Iterator[bytes]:
        yield archive[:100]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sfl.data.cifar10._fetch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(root, url)
    assert list(root.iterdir()) == []
    check(load(root, url))


def test_a_server_without_it(served: tuple[Path, str], files: object, root: Path) -> None:
    assert f"from {served[1]}/{ARCHIVE}: HTTP 404" in refused(root, served[1])


@pytest.mark.usefixtures("files", "offline")
def test_no_network_says_where_and_what_else_can_be_done(root: Path) -> None:
    line = refused(root)
    assert f"can't be downloaded from {CIFAR10.url}: [Errno 101] Network is unreachable" in line
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
    assert f"can't be saved in {root}: Permission denied" in line and "data.root" in line


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
    assert f"expected MD5 {md5(archive)}" in line and "remove the file" in line
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
@pytest.mark.parametrize("archive_md5_matches", [False, True])
def test_a_tampered_archive_is_not_opened(
    files: dict[str, bytes],
    root: Path,
    fuse: Path,
    archive_md5_matches: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tampered = packed(files | {"test_batch": pickle.dumps(Bomb(fuse))})
    if archive_md5_matches:
        monkeypatch.setattr(CIFAR10, "tgz_md5", md5(tampered))
    root.mkdir(parents=True)
    (root / ARCHIVE).write_bytes(tampered)
    expected = f"test_batch in {root / ARCHIVE}" if archive_md5_matches else str(root / ARCHIVE)
    assert f"{expected} is damaged" in refused(root)
