"""Run directories: made exclusively, locked by one process, found, listed, deleted with care."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from sfl.errors import Exit, UserError
from sfl.runs import store
from sfl.runs.directory import Run, lock
from tests.conftest import make_run, refusal

failure = partial(refusal, Exit.RUN)


@contextmanager
def trained_elsewhere(path: Path) -> Iterator[None]:
    """Another process holds the run's lock."""
    code = (
        "import sys; from pathlib import Path\nfrom sfl.runs.directory import Run, lock\n"
        "with lock(Run(Path(sys.argv[1]))):\n"
        "    print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        yield
        process.communicate()


def test_a_name_that_is_taken_gets_a_number(runs_dir: Path) -> None:
    made = [store.create(runs_dir, "a-s0").name for _ in range(3)]
    assert made == ["a-s0", "a-s0-2", "a-s0-3"]
    assert sorted(path.name for path in runs_dir.iterdir()) == made


def test_two_processes_never_make_the_same_directory(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and making, another process may be quicker: only mkdir itself can tell."""
    real = Path.mkdir

    def mkdir(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        if path.name == "a" and not path.exists():
            real(path)  # the other process
        real(path, mode, parents, exist_ok)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert store.create(runs_dir, "a").name == "a-2"


def test_a_name_given_by_hand_must_be_new(runs_dir: Path) -> None:
    path = make_run(runs_dir / "my run")
    line = failure(store.create, runs_dir, "my run", exact=True)
    assert line == (
        f"{path}: a run of this name exists (choose another, or delete it: sfl runs rm '{path}')"
    )
    (path / "result.json").unlink()
    line = failure(store.create, runs_dir, "my run", exact=True)
    assert line == (
        f"{path}: a run of this name exists "
        f"(choose another, or go on with it: sfl train --resume '{path}')"
    )
    with lock(Run(path)):
        line = failure(store.check_new, runs_dir, "my run")
    assert line == f"{path}: a run of this name is being trained (choose another name)"


@pytest.mark.parametrize("there", [[], [".lock"], [".lock", ".config.yaml.abc.sfl.tmp"]])
def test_what_was_left_before_training_began_is_in_nobodys_way(
    runs_dir: Path, there: list[str]
) -> None:
    path = runs_dir / "mine"
    path.mkdir(parents=True)
    for name in there:
        (path / name).touch()
    assert store.create(runs_dir, "mine", exact=True).path == path
    with lock(Run(path)):
        line = failure(store.create, runs_dir, "mine", exact=True)
    assert line == f"{path}: a run of this name is being trained (choose another name)"


@pytest.mark.parametrize("name", ["notes.txt", "config.yaml"])
def test_a_folder_of_other_things_is_not_called_a_run(runs_dir: Path, name: str) -> None:
    (runs_dir / "mine").mkdir(parents=True)
    (runs_dir / "mine" / name).touch()
    line = failure(store.create, runs_dir, "mine", exact=True)
    assert line == f"{runs_dir / 'mine'}: exists, and is not a run (choose another name)"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs", "-x", "a\nb", "n" * 201])
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(UserError, match=r"^--name .*: expected a name, not a path") as caught:
        store.check_name(name)
    assert caught.value.exit_code is Exit.USAGE


def test_runs_that_are_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert failure(store.create, tmp_path / "file", "a") == (
        f"{tmp_path / 'file'}: not a folder (choose another with --runs)"
    )


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EACCES, Exit.RUN, "can't be written: Permission denied (make the folder writable"),
        (errno.EROFS, Exit.RUN, "can't be written: Read-only file system"),
        (errno.ENOSPC, Exit.RESOURCES, "no space left on the disk"),
    ],
)
def test_runs_that_cannot_be_written(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: Exit, words: str
) -> None:
    def mkdir(path: Path, *arguments: object, **keywords: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert f"{runs_dir / 'a'}: {words}" in refusal(code, store.create, runs_dir, "a")


def test_a_run_is_trained_by_one_process_at_a_time(runs_dir: Path) -> None:
    path = make_run(runs_dir / "a")
    (path / "result.json").unlink()
    run = Run(path)
    assert Run(path).status == "interrupted"
    with trained_elsewhere(path):
        assert Run(path).status == "running"
        line = f"{path}: another process is training it (wait, or stop that one)"
        with pytest.raises(UserError, match="another process") as caught, lock(run):
            pass
        assert str(caught.value) == line and caught.value.exit_code is Exit.RUN
        assert failure(store.remove, run) == line
        assert path.is_dir()
    assert Run(path).status == "interrupted"
    with lock(run):
        assert Run(path).status == "running"  # seen by this process as well


def test_the_lock_of_a_process_that_died_does_not_hold(runs_dir: Path) -> None:
    path = make_run(runs_dir / "a")
    (path / "result.json").unlink()
    code = (
        "import os, sys; from pathlib import Path\n"
        "from sfl.runs.directory import Run, lock\n"
        "with lock(Run(Path(sys.argv[1]))):\n"
        "    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 9
    assert (path / ".lock").exists()
    assert Run(path).status == "interrupted"
    with lock(Run(path)):
        pass


def test_the_lock_goes_when_the_run_has_finished(runs_dir: Path) -> None:
    path = make_run(runs_dir / "a")
    with lock(Run(path)):
        assert (path / ".lock").exists()
    assert not (path / ".lock").exists()
    assert Run(path).status == "finished"


def test_a_lock_that_cannot_be_written_is_one_line(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(runs_dir / "a")

    def refuse(*arguments: object, **keywords: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError) as caught, lock(Run(path)):
        pass
    assert f"{path / '.lock'}: can't be written: Permission denied" in str(caught.value)


def test_runs_are_listed_oldest_first_and_nothing_else_is(runs_dir: Path) -> None:
    assert store.list_runs(runs_dir) == []
    for name in ("b", "a", "c"):
        make_run(runs_dir / name)
        time.sleep(0.05)  # more than a file system's clock ticks
    (runs_dir / ".gitignore").touch()
    (runs_dir / "empty").mkdir()
    foreign = runs_dir / "foreign"  # config.yaml is a common name
    foreign.mkdir()
    (foreign / "config.yaml").write_text("a: 1\n")
    assert [run.name for run in store.list_runs(runs_dir)] == ["b", "a", "c"]
    assert "no such run" in failure(store.find, runs_dir, "foreign")


def test_runs_that_cannot_be_listed_are_one_line(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def iterdir(path: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert failure(store.list_runs, runs_dir) == f"{runs_dir}: can't be read: Permission denied"


def test_a_run_is_found_by_name_or_path(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_run(runs_dir / "a-s0")
    assert store.find(runs_dir, "a-s0").path == path
    assert store.find(Path("elsewhere"), str(path)).path == path
    assert store.search(runs_dir, "b") is None
    assert failure(store.find, runs_dir, "b") == f"b: no such run in {runs_dir} (there are a-s0)"
    assert "(there are none yet)" in failure(store.find, Path("elsewhere"), "b")
    monkeypatch.chdir(path)
    assert store.find(runs_dir, ".").path == Path()


def test_the_newest_finished_run_is_the_one_whose_result_is_newest(runs_dir: Path) -> None:
    assert failure(store.newest_finished, runs_dir) == (
        f"{runs_dir}: no finished run (train one: sfl train --config configs/quickstart.yaml)"
    )
    for name, age in (("a", 100), ("b", 200), ("c", 300)):
        os.utime(make_run(runs_dir / name) / "result.json", (1e9 - age, 1e9 - age))
    (make_run(runs_dir / "d") / "result.json").unlink()
    assert store.newest_finished(runs_dir).name == "a"


def test_trained_weights_of_a_run_or_a_file(runs_dir: Path) -> None:
    path = make_run(runs_dir / "a")
    line = failure(store.find_weights, runs_dir, "a")
    assert line == f"{path}: has no trained weights (best.safetensors was not kept)"
    (path / "best.safetensors").touch()
    assert store.find_weights(runs_dir, "a") == path / "best.safetensors"
    assert store.find_weights(runs_dir, None) == path / "best.safetensors"
    assert store.find_weights(Path("x"), str(path / "result.json")) == path / "result.json"
    (make_run(runs_dir / "b") / "result.json").unlink()
    line = failure(store.find_weights, runs_dir, "b")
    assert f"(go on with it: sfl train --resume {runs_dir / 'b'})" in line


def test_a_damaged_file_is_named(runs_dir: Path) -> None:
    path = make_run(runs_dir / "a")
    for name in ("result.json", "metrics.jsonl"):
        (path / name).write_text("{\n")
    run = Run(path)
    hint = f"(put it back, or delete the run: sfl runs rm {path})"
    assert failure(lambda: run.result) == f"{path / 'result.json'}: damaged {hint}"
    assert failure(lambda: run.metrics) == f"{path / 'metrics.jsonl'}: damaged {hint}"
    (path / "config.yaml").write_bytes(b"\xff")
    assert failure(lambda: run.config) == f"{path / 'config.yaml'}: can't be read: not a text file"


def test_files_that_go_while_a_running_run_is_looked_at(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(runs_dir / "a")
    real = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        yield from real(folder)
        yield folder / ".metrics.jsonl.gone.tmp"

    size = Run(path).bytes
    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert Run(path).bytes == size
    assert Run(path).modified > 0


def test_what_is_written_is_json_in_lines(runs_dir: Path) -> None:
    run = Run(make_run(runs_dir / "a"))
    run.write_metrics([{"epoch": 1}, {"epoch": 2}])
    assert (run.path / "metrics.jsonl").read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    run.write_json("result.json", {"class": "größer"})
    text = (run.path / "result.json").read_text(encoding="utf-8")
    assert "größer" in text and json.loads(text) == {"class": "größer"}


def test_removing_deletes_all_of_a_run_and_says_why_it_cannot(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(runs_dir / "kept")
    path = make_run(runs_dir / "gone")
    (path / "sub").mkdir()
    store.remove(Run(path))
    assert [run.name for run in store.list_runs(runs_dir)] == ["kept"]
    assert not path.exists()

    def rmtree(folder: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    monkeypatch.setattr("shutil.rmtree", rmtree)
    kept = runs_dir / "kept"
    line = failure(store.remove, Run(kept))
    assert line == f"{kept}: can't be deleted: {kept}: Permission denied"


def test_whether_training_has_made_anything(runs_dir: Path) -> None:
    path = make_run(runs_dir / "a")
    assert Run(path).has_begun()
    Run(path).write_metrics([])
    assert not Run(path).has_begun()
    (path / "last.safetensors").touch()
    assert Run(path).has_begun()


def test_pictures_of_a_run_count_as_bytes_but_do_not_make_it_newer(runs_dir: Path) -> None:
    run = Run(make_run(runs_dir / "a"))
    size, modified = run.bytes, run.modified
    (run.path / "plots").mkdir()
    (run.path / "plots" / "a.png").write_bytes(b"12345")
    os.utime(run.path / "plots", (modified + 100, modified + 100))
    assert (run.bytes, run.modified) == (size + 5, modified)
