"""A folder of images: what is read, what is refused, and a cache that can't be stale."""

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from sfl.data import cache, decoding, folder
from sfl.data.dataset import Dataset
from sfl.data.sources import load_dataset
from sfl.errors import Exit, UserError
from sfl.locks import locked
from tests.conftest import refusal


def save(path: Path, value: int = 0, size: tuple[int, int] = (2, 2)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, which only a root that can't be written makes use of."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    return tmp_path / "home-cache" / "sfl"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes; every image is of one grey: train 10, 11 | 20, test 30 | 40."""
    root = tmp_path / "images"
    save(root / "train" / "dog" / "1.png", 20)
    save(root / "train" / "cat" / "b.png", 11)
    save(root / "train" / "cat" / "a.png", 10)
    save(root / "test" / "cat" / "a.png", 30)
    save(root / "test" / "dog" / "a.png", 40)
    return root


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that were decoded, in order, since the test began."""
    paths: list[Path] = []
    original = decoding._decode

    def spy(path: Path, known: bytes, resize: int | None) -> object:
        paths.append(path)
        return original(path, known, resize)

    monkeypatch.setattr(decoding, "_decode", spy)
    return paths


def load(root: Path, resize: int | None = None) -> Dataset:
    return load_dataset("folder", root=root, resize=resize)


def greys(dataset: Dataset) -> tuple[list[int], list[int]]:
    for split in (dataset.train, dataset.test):
        assert split.images.float().std(dim=(1, 2, 3)).eq(0).all()
    return tuple(s.images[:, 0, 0, 0].tolist() for s in (dataset.train, dataset.test))  # type: ignore[return-value]


def caches(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


refused = partial(refusal, Exit.DATA, load)


# --- what is read


def test_classes_are_sorted_folders_and_files_are_sorted_in_them(root: Path) -> None:
    dataset = load(root)
    assert dataset.classes == ("cat", "dog") and dataset.source == "folder"
    assert dataset.in_dimensions == (3, 2, 2)
    assert greys(dataset) == ([10, 11, 20], [30, 40])
    assert dataset.train.labels.tolist() == [0, 0, 1]
    assert dataset.test.labels.tolist() == [0, 1]


def test_hidden_and_other_files_are_ignored(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(root / "train" / ".ipynb_checkpoints" / "a.png", 99)
    save(root / "train" / "cat" / ".hidden.png", 99)
    save(root / "train" / "cat" / ".thumbnails" / "a.png", 99)
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"\0")
    (root / "train" / "notes.txt").write_text("beside the classes")
    before = capsys.readouterr()
    assert greys(load(root)) == ([10, 11, 20], [30, 40])
    assert "ignored" not in capsys.readouterr().err
    (root / "test" / "dog" / "notes.txt").write_text("no image")
    assert greys(load(root)) == ([10, 11, 20], [30, 40])
    output = capsys.readouterr()
    assert f"the suffix is not an image's: {root / 'test/dog/notes.txt'}\n" in output.err
    assert before.out + output.out == ""


def test_resize_only_if_asked(root: Path) -> None:
    save(root / "test" / "dog" / "b.png", 50, size=(4, 6))
    assert "data.resize" in refused(root)
    dataset = load(root, resize=3)
    assert dataset.in_dimensions == (3, 3, 3)
    assert greys(dataset) == ([10, 11, 20], [30, 40, 50])


def test_the_data_set_and_its_cache_may_be_moved(
    root: Path, tmp_path: Path, decoded: list[Path]
) -> None:
    fingerprints = load(root).fingerprints
    decoded.clear()
    assert load(root.rename(tmp_path / "elsewhere")).fingerprints == fingerprints
    assert decoded == []


# --- what is refused


def remove(path: Path) -> None:
    if path.is_file():
        path.unlink()
        return
    for child in list(path.iterdir()):
        remove(child)
    path.rmdir()


def make_a_file(root: Path) -> None:
    remove(root)
    root.touch()


def remove_the_classes(root: Path) -> None:
    for path in (root / "train").iterdir():
        remove(path)


def leave_only_text(root: Path) -> None:
    remove(root / "test/dog/a.png")
    (root / "test/dog/a.txt").touch()


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no root": (remove, "{root} does not exist"),
    "root is a file": (make_a_file, "{root} is not a folder"),
    "no train": (lambda root: remove(root / "train"), "{root}/train does not exist"),
    "no test": (lambda root: remove(root / "test"), "{root}/test does not exist"),
    "no classes": (
        remove_the_classes,
        "{root}/train contains no class folders",
    ),
    "a class without images": (
        leave_only_text,
        "{root}/test/dog contains no images",
    ),
    "a class only in train": (
        lambda root: save(root / "train/eel/a.png"),
        "{root}: train and test have different classes; not in test: eel (",
    ),
    "a class renamed in test": (
        lambda root: (root / "test/dog").rename(root / "test/hound"),
        "not in train: hound; not in test: dog (",
    ),
    "an unreadable image": (
        lambda root: (root / "train/dog/1.png").write_bytes(b"\x89PNG"),
        "{root}/train/dog/1.png can't be read: Pillow does not know its image format (",
    ),
    "a broken link": (
        lambda root: (root / "train/dog/2.png").symlink_to(root / "gone.png"),
        "{root}/train/dog/2.png can't be read: No such file or directory",
    ),
    "a folder in a class": (
        lambda root: save(root / "train/cat/more/a.png"),
        "{root}/train/cat/more is a folder inside a class folder",
    ),
    "different sizes": (
        lambda root: save(root / "test/cat/b.png", size=(3, 2)),
        "{root}/train/cat/a.png is 2x2, {root}/test/cat/b.png is 3x2",
    ),
}


@pytest.mark.parametrize(("spoil", "expected"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refused_with_one_line(root: Path, spoil: Callable[[Path], object], expected: str) -> None:
    spoil(root)
    assert expected.format(root=root) in refused(root)


# --- validation, odd names, broken files


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_folder_for_validation_becomes_a_split(root: Path, name: str) -> None:
    before = load(root)
    save(root / name / "cat" / "v.png", 50)
    save(root / name / "dog" / "v.png", 60)
    dataset = load(root)
    assert dataset.validation is not None and dataset.validation.labels.tolist() == [0, 1]
    assert dataset.validation.images[:, 0, 0, 0].tolist() == [50, 60]
    assert dataset.validation.files == (f"{name}/cat/v.png", f"{name}/dog/v.png")
    assert greys(dataset) == ([10, 11, 20], [30, 40])
    assert set(dataset.fingerprints) == {"train", "validation", "test"}
    assert before.fingerprints.items() < dataset.fingerprints.items()
    assert load(root).fingerprints == dataset.fingerprints  # from the cache


def test_validation_alone_is_no_test_set(root: Path) -> None:
    (root / "test").rename(root / "val")
    assert f"{root}/test does not exist (" in refused(root)
    assert "val, which is there, is for validation only: if nothing is to be" in refused(root)
    remove(root / "train")
    assert "is for validation only" not in refused(root)  # train is what is missing


def test_two_folders_for_validation_are_refused(root: Path) -> None:
    for name in ("val", "valid"):
        save(root / name / "cat" / "v.png")
    assert "has val and valid: two folders for validation" in refused(root)


def test_names_that_look_the_same_are_the_same_class(root: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    (root / "train" / "cat").rename(root / "train" / composed)
    (root / "test" / "cat").rename(root / "test" / decomposed)
    assert load(root).classes == (composed, "dog")
    save(root / "train" / decomposed / "a.png")
    assert r"look the same: 'cafe\u0301' and 'caf\xe9'" in refused(root)


@pytest.mark.parametrize("name", [os.fsdecode(b"\xff"), "a\nb", "\x1b[31m"])
def test_a_class_whose_name_cannot_be_shown_is_refused(root: Path, name: str) -> None:
    try:
        (root / "train" / "cat").rename(root / "train" / name)
    except OSError:
        pytest.skip("this file system has no such names")
    assert f"has a folder whose name can't be shown: {name!a} (rename it, or set" in refused(root)


@pytest.mark.parametrize("place", ["train/eel", "val"])
def test_a_link_to_a_disk_that_is_not_there_is_refused(root: Path, place: str) -> None:
    """It is no folder, and would be passed over: a class less, and no word of it."""
    (root / place).symlink_to(root.parent / "disk")
    assert f"{root / place} is a link to {root.parent / 'disk'}, which isn't there" in refused(root)


def test_folders_of_operating_systems_are_no_classes(root: Path) -> None:
    save(root / "train" / "__MACOSX" / "a.png")
    (root / "test" / "cat" / "@eaDir").mkdir()
    assert load(root).classes == ("cat", "dog")


def test_files_without_a_known_suffix_are_named_where_nothing_else_is(root: Path) -> None:
    (root / "test/dog/a.png").rename(root / "test/dog/0001")
    assert "dog contains no images (files without an image's suffix, such as" in refused(root)
    assert ".jpg: 1; rename 0001, if it is an image)" in refused(root)


def test_broken_files_are_left_out_if_asked(
    root: Path, capsys: pytest.CaptureFixture[str], decoded: list[Path]
) -> None:
    (root / "train/cat/0.png").write_bytes(b"\x89PNG")
    assert "or leave it out with data.skip_broken: true" in refused(root)
    for _ in range(2):  # decoded, and from the cache
        capsys.readouterr()
        dataset = load_dataset("folder", root=root, skip_broken=True)
        assert greys(dataset) == ([10, 11, 20], [30, 40])
        assert dataset.train.files == ("train/cat/a.png", "train/cat/b.png", "train/dog/1.png")
        assert list(dataset.reading["skipped"]) == ["train/cat/0.png"]
        assert "left out, because they can't be read" in capsys.readouterr().err
    assert "0.png" in refused(root)  # the cache of the run that left it out is not this one's


def test_a_class_that_loses_all_its_images_is_refused(root: Path) -> None:
    (root / "test/dog/a.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of the images of class dog in test can be read"):
        load_dataset("folder", root=root, skip_broken=True)


def test_what_was_seen_is_told_from_the_cache_too(root: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    Image.new("L", (2, 2), 5).save(root / "test/cat/b.jpg", exif=exif)
    (root / "test/cat/notes.txt").touch()
    (root / "test/cat/.DS_Store").touch()
    first, second = load(root), load(root)
    assert first.reading == second.reading
    assert first.reading["turned_upright"] == 1
    assert first.reading["passed_over"] == {".txt": 1, "hidden": 1}


# --- the cache


def test_decoded_once(root: Path, decoded: list[Path], user_cache: Path) -> None:
    first = load(root)
    assert len(set(decoded)) == 5
    decoded.clear()
    second = load(root)
    assert decoded == []
    assert second.fingerprints == first.fingerprints and greys(second) == greys(first)
    assert second.train.labels.tolist() == [0, 0, 1] and second.classes == first.classes
    assert len(caches(root / ".sfl-cache")) == 1 and not user_cache.exists()


def repaint(root: Path) -> None:
    """Another image of the same size in bytes, with the file's times put back."""
    path = root / "train" / "dog" / "1.png"
    times, length = path.stat(), path.stat().st_size
    save(path, 21)
    assert path.stat().st_size == length
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[Path], object], list[int]]] = {
    "another content": (repaint, [10, 11, 21]),
    "an image more": (lambda root: save(root / "train/dog/2.png", 22), [10, 11, 20, 22]),
    "an image less": (lambda root: remove(root / "train/cat/a.png"), [11, 20]),
    "another order": (
        lambda root: (root / "train/cat/a.png").rename(root / "train/cat/c.png"),
        [11, 10, 20],
    ),
}


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_never_stale(root: Path, change: Callable[[Path], object], expected: list[int]) -> None:
    before = load(root)
    change(root)
    after = load(root)
    assert greys(after)[0] == expected
    assert after.fingerprints["train"] != before.fingerprints["train"]
    assert after.fingerprints["test"] == before.fingerprints["test"]


def test_an_image_that_changes_its_class_changes_its_label(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(root)
    (root / "train" / "cat" / "b.png").rename(root / "train" / "dog" / "0.png")
    assert load(root).train.labels.tolist() == [0, 1, 1]
    assert "damaged" not in capsys.readouterr().err  # another key, not another content under it


def test_read_by_two_at_once_it_is_decoded_once(
    root: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, decode_all = threading.Barrier(2), decoding.decode_all

    def decoding_slowly(*given: Any, **more: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            slow.wait(timeout=0.5)  # until the other one decodes, too, if nothing keeps it
        return decode_all(*given, **more)

    monkeypatch.setattr(folder, "decode_all", decoding_slowly)
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(load, [root, root])
    assert len(decoded) == 5
    assert one.fingerprints == other.fingerprints


def test_who_waits_waits_where_the_cache_will_be(
    root: Path, user_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.lock_path(root).parent == root
    monkeypatch.setattr(os, "access", lambda *_: False)  # a data folder that is read-only
    assert cache.lock_path(root).parent == user_cache and user_cache.is_dir()


def test_resized_and_not_are_cached_apart(root: Path, decoded: list[Path]) -> None:
    assert [load(root, resize).in_dimensions[1] for resize in (None, 3, 4)] == [2, 3, 4]
    decoded.clear()
    assert [load(root, resize).in_dimensions[1] for resize in (None, 3, 4)] == [2, 3, 4]
    assert decoded == []


def test_only_the_newest_caches_are_kept(root: Path, decoded: list[Path]) -> None:
    for age in range(cache.KEPT + 3):
        load(root, resize=age + 1)
        for path in caches(root / ".sfl-cache"):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 10))
    assert len(caches(root / ".sfl-cache")) == cache.KEPT
    decoded.clear()
    assert load(root, resize=cache.KEPT + 3).in_dimensions[1] == cache.KEPT + 3
    assert decoded == []


def flip_last_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-1],
    "garbage": lambda content: os.urandom(len(content)),
    "a pixel": flip_last_bit,
    "other name": lambda content: content.replace(b'"images"', b'"imagez"'),
    "other type": lambda content: content.replace(b'"U8"', b'"I8"'),
    "other shape": lambda content: content.replace(b"[5,3,2,2]", b"[5,2,3,2]"),
    "no checksum": lambda content: content.replace(b'"train"', b'"brain"'),
    "what was seen": lambda content: content.replace(b'upright\\": 0', b'upright\\": 7'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_cache_is_made_again(
    root: Path,
    decoded: list[Path],
    damage: Callable[[bytes], bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fingerprints = load(root).fingerprints
    (cache,) = caches(root / ".sfl-cache")
    good = cache.read_bytes()
    cache.unlink()  # the loaded tensors may still lie in the old file
    cache.write_bytes(damage(good))
    assert cache.read_bytes() != good
    decoded.clear()
    assert load(root).fingerprints == fingerprints
    assert len(decoded) > 0 and f"{cache} is damaged" in capsys.readouterr().err
    decoded.clear()
    assert load(root).fingerprints == fingerprints
    assert decoded == []


def test_what_killed_processes_left_in_a_cache_goes_at_the_next_start(
    root: Path, user_cache: Path, decoded: list[Path]
) -> None:
    load(root)
    user_cache.mkdir(parents=True)
    for place in (root / ".sfl-cache", user_cache):
        (place / ".a.safetensors.abc.sfl.tmp").mkdir()
        (place / ".a.safetensors.abc.sfl.tmp" / "a.safetensors").write_bytes(b"half")
        (place / ".tmpAbC").write_bytes(b"as earlier versions left it")
    decoded.clear()
    load(root)
    assert decoded == [] and list(user_cache.iterdir()) == []
    assert list((root / ".sfl-cache").iterdir()) == caches(root / ".sfl-cache")


def test_what_a_living_process_writes_into_a_cache_stays(root: Path) -> None:
    load(root)
    place = root / ".sfl-cache"
    with locked(place / cache.LOCK):
        (place / ".tmpAbC").touch()
        load(root)
        assert (place / ".tmpAbC").exists()


def make_no_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".sfl-cache").touch()


def make_no_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = tempfile.mkdtemp

    def refuse(*, dir: Path, prefix: str, suffix: str) -> str:
        if root in dir.parents:
            raise PermissionError(13, "Permission denied")
        return original(dir=dir, prefix=prefix, suffix=suffix)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)


@pytest.mark.parametrize("close", [make_no_folder, make_no_file])
def test_a_root_that_cannot_be_written_uses_the_users_cache(
    root: Path,
    decoded: list[Path],
    user_cache: Path,
    close: Callable[[Path, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    close(root, monkeypatch)  # in a way that holds for whoever runs the tests
    first = load(root)
    assert len(caches(user_cache)) == 1
    decoded.clear()
    assert greys(load(root)) == greys(first)
    assert decoded == []


def test_without_any_place_for_a_cache_it_works_all_the_same(
    root: Path, user_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / ".sfl-cache").touch()
    user_cache.parent.touch()
    assert greys(load(root)) == ([10, 11, 20], [30, 40])
    assert "could not be cached" in capsys.readouterr().err


def test_a_user_without_a_home_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert greys(load(root)) == ([10, 11, 20], [30, 40])
