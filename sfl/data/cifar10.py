"""CIFAR-10 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

CIFAR-10 is published as pickles, and loading a pickle can run any code. So each file is read once
into memory, its MD5 is compared with the published one, and only those verified bytes are
unpickled; the archive is never unpacked to the disk. The URL, file names and checksums come from
torchvision. Its reader is not used: it checks a file and then opens it a second time (the file may
have changed), treats a damaged archive as missing, and leaves half a file if a download stops.

Knows nothing of batches or models.
"""

import errno
import hashlib
import io
import os
import pickle
import tarfile
import warnings
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10

from sfl.data.dataset import Dataset, Split
from sfl.errors import Exit, UserError
from sfl.files import TEMPORARY, atomic_path
from sfl.locks import one_at_a_time
from sfl.progress import say, track

MEGABYTE = 1_000_000
TIMEOUT = 30  # seconds without a byte from the server


def load_cifar10(root: Path, mirror: str | None = None, *, fetch: bool = True) -> Dataset:
    """Reads CIFAR-10: 50,000 training and 10,000 test images (3, 32, 32) in ten classes.

    Reads the unpacked folder cifar-10-batches-py in `root`, else the archive
    cifar-10-python.tar.gz in `root`. If neither is there, downloads the archive into `root`.
    mirror: the URL of a folder with the archive, or of the archive itself (ending in .tar.gz).
    fetch: whether the archive may be downloaded.

    Raises UserError (exit 3) if the archive is damaged, missing or can't be downloaded, (exit 6)
    if the disk is full.
    """
    files = _read_folder(root / CIFAR10.base_folder)
    if files is None:
        archive = root / CIFAR10.filename
        if not archive.exists() and not fetch:
            raise UserError(f"{root}: CIFAR-10 is not here", "fetch it: sfl data", Exit.DATA)
        if not archive.exists():
            _download(_url(mirror), archive)
        files = _read_archive(archive)
    train = [_unpickle(files[name]) for name, _ in CIFAR10.train_list]
    test = [_unpickle(files[name]) for name, _ in CIFAR10.test_list]
    classes = _unpickle(files[CIFAR10.meta["filename"]])[CIFAR10.meta["key"]]
    return Dataset("cifar10", tuple(classes), _split(train), _split(test))


def _split(batches: list[dict[str, Any]]) -> Split:
    """A batch holds "data", (n, 3072) uint8: the red, green and blue pixels; and "labels"."""
    images: list[Tensor] = [torch.from_numpy(batch["data"]) for batch in batches]
    labels = [label for batch in batches for label in batch["labels"]]
    return Split(torch.cat(images).view(-1, 3, 32, 32), torch.tensor(labels))


# --- reading: dictionaries from file name (without its folder) to verified content


def _checksums() -> dict[str, str]:
    meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    return dict([*CIFAR10.train_list, *CIFAR10.test_list, meta])


def _read_folder(folder: Path) -> dict[str, bytes] | None:
    """The unpacked files; None if one is missing or damaged."""
    if not folder.is_dir():
        return None
    files: dict[str, bytes] = {}
    for name, expected in track(_checksums().items(), "Reading CIFAR-10"):
        try:
            files[name] = (folder / name).read_bytes()
        except OSError as error:
            say(f"{folder / name} can't be read ({error.strerror}); using the archive instead")
            return None
        if _md5(files[name]) != expected:
            say(f"{folder / name} is damaged (wrong MD5); using the archive instead")
            return None
    return files


def _read_archive(archive: Path) -> dict[str, bytes]:
    try:
        content = archive.read_bytes()
    except OSError as error:
        message = f"{archive} can't be read: {error.strerror}"
        raise UserError(message, "make it readable, or remove it", Exit.DATA) from error
    _verify(content, CIFAR10.tgz_md5, str(archive))
    files: dict[str, bytes] = {}
    checksums = _checksums()
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        for member in track(tar, "Reading CIFAR-10", total=len(checksums) + 2):
            name = member.name.removeprefix(f"{CIFAR10.base_folder}/")
            if name in checksums and (opened := tar.extractfile(member)) is not None:
                files[name] = opened.read()
                _verify(files[name], checksums[name], f"{name} in {archive}")
    return files


def _verify(content: bytes, expected: str, what: str) -> None:
    found = _md5(content)
    if found != expected:
        raise UserError(
            f"{what} is damaged: {len(content)} bytes with MD5 {found}, expected MD5 {expected}",
            "remove the file to download it again, or replace it",
            Exit.DATA,
        )


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _unpickle(verified: bytes) -> dict[str, Any]:
    with warnings.catch_warnings():
        # numpy 2.4.0 to 2.4.4 warn about the way dtypes were pickled in 2009.
        warnings.simplefilter("ignore")
        entry: dict[str, Any] = pickle.loads(verified, encoding="latin1")
    return entry


# --- downloading


def _url(mirror: str | None) -> str:
    if mirror is None:
        return str(CIFAR10.url)
    return mirror if mirror.endswith(".tar.gz") else f"{mirror.rstrip('/')}/{CIFAR10.filename}"


def _download(url: str, archive: Path) -> None:
    """Downloads the archive. The file gets its name only when it is complete and verified."""
    _make_writable(archive.parent)
    left_over = [f".{archive.name}.*{TEMPORARY}"]
    with one_at_a_time(archive.with_name(f".{archive.name}.lock"), left_over):
        if not archive.exists():  # another process may have downloaded it meanwhile
            _download_verified(url, archive)


def _download_verified(url: str, archive: Path) -> None:
    with atomic_path(archive) as temporary:
        digest, size = hashlib.md5(usedforsecurity=False), 0
        with temporary.open("wb") as file:
            for chunk in _fetch(url, archive.parent):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        if digest.hexdigest() != CIFAR10.tgz_md5:
            raise UserError(
                f"{url} is not the CIFAR-10 archive: {size} bytes with MD5 {digest.hexdigest()},"
                f" expected MD5 {CIFAR10.tgz_md5}",
                _elsewhere(archive.parent),
                Exit.DATA,
            )


def _make_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        message = f"CIFAR-10 can't be saved in {root}: {error.strerror}"
        raise UserError(message, "choose another folder with data.root", Exit.DATA) from error


def _fetch(url: str, root: Path) -> Iterator[bytes]:
    """The content of `url`, a megabyte at a time."""
    try:
        with urlopen(Request(url, headers={"User-Agent": "sfl"}), timeout=TIMEOUT) as response:
            size = int(response.headers.get("Content-Length") or 0)
            chunks = iter(lambda: response.read(MEGABYTE), b"")
            total = -(-size // MEGABYTE) or None
            yield from track(chunks, f"Downloading {url} (MB)", total)
    # ValueError: not a URL. An OSError comes from the network: the file is written by the caller.
    except (OSError, HTTPException, ValueError) as error:
        message = f"CIFAR-10 can't be downloaded from {url}: {_reason(error)}"
        raise UserError(message, _elsewhere(root), Exit.DATA) from error


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        error.close()
        return f"HTTP {error.code} {error.reason}"
    return str(error.reason) if isinstance(error, URLError) else str(error)


def _elsewhere(root: Path) -> str:
    return (
        f"set data.mirror to another server, put {CIFAR10.filename} into {root}, or use"
        " data.source=shapes, which needs no files"
    )
