"""Set-up in one command, through the real shell scripts. Only Python's venv and pip are stand-ins
here, so that a set-up takes milliseconds; one slow test does it with the real ones.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Env = Mapping[str, str]
NONE: Env = {}
ROOT = Path(__file__).parent.parent
REAL = os.path.realpath(getattr(sys, "_base_executable", sys.executable))

# pip counts itself, does what the test wrote into pip-does, installs an sfl that shows its
# arguments. The lock, and disk space unless the test wrote it into mb-free, are the real Python's.
STAND_IN = rf"""
me=$(readlink -f "$0")
case "$*" in
*ensurepip*) echo "$me" ;; # asked whether it is usable, a Python says its real path
*"-m venv"*)
    mkdir -p .venv/bin
    ln -s "$me" .venv/bin/python
    echo "executable = $me" >.venv/pyvenv.cfg
    ;;
*"-m pip"*)
    echo install >>installs
    [ ! -f pip-does ] || . ./pip-does
    printf '%s\n' '#!/bin/sh' 'printf "%s\n" "$PWD" "$@"' >.venv/bin/sfl
    chmod +x .venv/bin/sfl
    ;;
*disk_usage*) cat mb-free 2>/dev/null || exec "{REAL}" "$@" ;;
*) exec "{REAL}" "$@" ;;
esac
"""


def write_program(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # a link to another program must not be written through
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


class Repository:
    """A copy of the scripts in a folder of its own, with a pyproject.toml."""

    def __init__(self, root: Path, programs: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.programs = programs
        self.environment = {"PATH": f"{programs}:{os.environ['PATH']}", "SFL_VENV_GB": "0"}

    def start(
        self, *command: str, cwd: Path | None = None, env: Env = NONE
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [str(self.root / command[0]), *command[1:]],
            cwd=cwd or self.root,
            env={**self.environment, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def call(self, *command: str, cwd: Path | None = None, env: Env = NONE) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        process = self.start(*command, cwd=cwd, env=env)
        output, error = process.communicate(timeout=60)
        return process.returncode, output, error

    def set_up(self, **env: str) -> tuple[int, str]:
        """Exit code and standard error; nothing is ever printed on standard output."""
        code, output, error = self.call("scripts/setup-env", env=env)
        assert output == ""
        return code, error

    def pip_does(self, shell: str) -> None:
        (self.root / "pip-does").write_text(shell)

    def change_pyproject(self) -> None:
        (self.root / "pyproject.toml").write_text("[project] # changed\n")

    @property
    def installs(self) -> int:
        path = self.root / "installs"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    root = tmp_path / "a repository"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    shutil.copytree(ROOT / ".ci", root / ".ci")
    (root / "pyproject.toml").write_text("[project]\n")
    programs = tmp_path / "programs"
    programs.mkdir()
    write_program(programs / "python3", STAND_IN)
    return Repository(root, programs)


def test_the_first_call_sets_up_and_the_second_installs_nothing(
    repository: Repository, tmp_path: Path
) -> None:
    code, output, error = repository.call("scripts/sfl", "runs", "a b", "--json", cwd=tmp_path)
    assert (code, output) == (0, f"{tmp_path}\nruns\na b\n--json\n"), error
    size = "6 GB" if sys.platform == "linux" else "1 GB"
    assert error == f"setting up .venv (once, about {size}, a few minutes) …\n"
    (tmp_path / "link").symlink_to("a repository/scripts/sfl")
    for script in ("scripts/sfl", str(tmp_path / "link")):
        assert repository.call(script, "x", cwd=tmp_path) == (0, f"{tmp_path}\nx\n", "")
    assert repository.installs == 1


def test_the_second_call_starts_no_python(repository: Repository) -> None:
    repository.set_up()
    write_program(repository.programs / "python3", "touch started")
    write_program(repository.venv / "bin" / "python", "touch started")
    assert repository.set_up() == (0, "")
    assert not (repository.root / "started").exists()


def test_a_changed_pyproject_is_installed_into_the_same_venv(repository: Repository) -> None:
    repository.set_up()
    (repository.venv / "mark").touch()
    repository.change_pyproject()
    repository.pip_does("echo '# and once more' >>pyproject.toml")  # while it is installed
    assert repository.set_up() == (0, "updating .venv (pyproject.toml has changed) …\n")
    repository.pip_does("")
    assert repository.set_up() == (0, "updating .venv (pyproject.toml has changed) …\n")
    assert repository.set_up() == (0, "")
    assert repository.installs == 3
    assert (repository.venv / "mark").exists()


def test_an_update_that_fails_leaves_what_was(repository: Repository) -> None:
    repository.set_up()
    before = (repository.root / "pyproject.toml").read_text()
    repository.change_pyproject()
    repository.pip_does("echo ERROR: no such package; exit 1")
    code, error = repository.set_up()
    assert code == 3
    assert "the packages can't be installed: no such package" in error
    (repository.root / "pyproject.toml").write_text(before)
    assert repository.set_up() == (0, "")


@pytest.mark.parametrize("how", ["moved", "copied", "without its Python"])
def test_a_venv_that_does_not_work_is_made_anew(repository: Repository, how: str) -> None:
    repository.set_up()
    (repository.venv / "mark").touch()
    other = Repository(repository.root.with_name("other"), repository.programs)
    if how == "moved":
        repository.root.rename(other.root)
    elif how == "copied":
        shutil.copytree(repository.root, other.root, symlinks=True)
    else:
        other = repository
        (other.venv / "bin" / "python").unlink()
        (other.venv / "bin" / "python").symlink_to("/nowhere/python3")
    code, error = other.set_up()
    assert code == 0
    assert error.startswith("setting up .venv")
    assert not (other.venv / "mark").exists()


def test_another_python_can_be_asked_for(repository: Repository) -> None:
    assert repository.set_up(PYTHON="python3")[0] == 0
    assert repository.set_up(PYTHON="python3") == repository.set_up() == (0, "")
    other = repository.programs / "other"
    write_program(other, STAND_IN)
    for _ in range(2):
        assert repository.set_up(PYTHON="other")[0] == 0
        assert repository.installs == 2
    repository.change_pyproject()
    assert repository.set_up()[0] == 0
    assert (repository.venv / "bin" / "python").resolve() == other  # an update keeps it


def test_two_at_once_install_once(repository: Repository) -> None:
    repository.pip_does("sleep 1")
    both = [repository.start("scripts/sfl", "x") for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert repository.installs == 1
    assert sorted(error.split()[0] for error in errors) == ["setting", "waiting"]


def at_work(repository: Repository, does: str) -> "subprocess.Popen[str]":
    """A set-up whose pip has begun with that."""
    half = repository.venv / "half"
    repository.pip_does(f"echo $$ >pip.pid; touch .venv/half; {does}")
    process = repository.start("scripts/setup-env")
    for _ in range(3000):
        if half.exists():
            return process
        time.sleep(0.01)
    raise AssertionError("waited 30 s in vain")


def stop_midway(repository: Repository, send: Callable[[int], None]) -> tuple[int, str]:
    """Stops a set-up while pip is at work. Gives its exit code and its words."""
    process = at_work(repository, "exec sleep 60")
    send(process.pid)
    error = process.communicate(timeout=60)[1]
    repository.pip_does("")
    return process.returncode, error


def check_repair(repository: Repository) -> None:
    before = repository.installs
    code, error = repository.set_up()
    assert (code, repository.installs) == (0, before + 1)
    assert error.startswith("setting up .venv")
    assert not (repository.venv / "half").exists()


@pytest.mark.parametrize("update", [False, True])
def test_a_killed_set_up_is_repaired(repository: Repository, update: bool) -> None:
    if update:
        repository.set_up()
        repository.change_pyproject()
    code, _ = stop_midway(repository, lambda pid: os.killpg(pid, signal.SIGKILL))
    assert code == -signal.SIGKILL
    assert repository.venv.exists()
    check_repair(repository)


@pytest.mark.parametrize(
    ("send", "number"),
    [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM), (os.kill, signal.SIGHUP)],
    ids=["Ctrl-C", "terminated", "hung up"],
)
def test_an_interrupted_set_up_takes_pip_with_it_and_is_repaired(
    repository: Repository, send: Callable[[int, int], None], number: int
) -> None:
    code, error = stop_midway(repository, lambda pid: send(pid, number))
    assert code == 128 + number
    assert error.splitlines()[1:] == ["interrupted; the next call sets up .venv anew"]
    assert not repository.venv.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((repository.root / "pip.pid").read_text()), 0)
    check_repair(repository)


def test_who_waits_can_be_interrupted_and_breaks_nothing(repository: Repository) -> None:
    first = at_work(repository, "for _ in $(seq 600); do [ -f go-on ] || sleep 0.1; done")
    second = repository.start("scripts/setup-env")
    assert second.stderr is not None
    assert second.stderr.readline().startswith("waiting for another set-up")
    os.killpg(second.pid, signal.SIGINT)
    second.communicate(timeout=60)
    assert second.returncode in (130, -signal.SIGINT)
    (repository.root / "go-on").touch()
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert repository.set_up() == (0, "")


def test_the_lock_is_held_until_an_orphaned_pip_has_ended(repository: Repository) -> None:
    process = at_work(repository, "sleep 2; touch pip-ended")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    repository.pip_does("[ -f pip-ended ]")
    code, error = repository.set_up()
    assert (code, repository.installs) == (0, 2)
    assert error.startswith("waiting for another set-up of .venv …\n")


# --- what can't be done: one line, and an exit code


def refused(repository: Repository, env: Env = NONE, *, before: int = 0) -> tuple[int, str]:
    """Exit code and the line; before: how many lines say what is being done."""
    code, output, error = repository.call("scripts/sfl", "x", env=env)
    lines = error.splitlines()
    assert (output, len(lines)) == ("", before + 1), error
    return code, lines[-1]


def test_without_python_one_line_says_so(repository: Repository, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("dirname", "readlink", "cat"):
        (tools / name).symlink_to(str(shutil.which(name)))
    assert refused(repository, {"PATH": str(tools)}) == (
        2,
        "error: no usable Python: sfl needs 3.11 or newer; install one, or name one with "
        "PYTHON=/path/to/python3",
    )


def test_a_python_that_does_not_work_is_passed_over(repository: Repository) -> None:
    (repository.programs / "python3").rename(repository.programs / "python3.14")
    write_program(repository.programs / "python3", "echo no such version >&2; exit 127")
    code, error = repository.set_up()
    assert (code, error.count("\n")) == (0, 1)


def test_what_cannot_work_is_refused_before_anything_is_installed(repository: Repository) -> None:
    for name, exits in (("old", 1), ("bare", 3)):  # what asking whether it is usable ends with
        write_program(repository.programs / name, f"echo words >&2; exit {exits}")
    for env, code, says in (
        ({"PYTHON": "old"}, 2, "no usable Python: sfl needs 3.11 or newer, and PYTHON=old is not"),
        ({"PYTHON": "bare"}, 2, "no usable Python: bare has no venv module; install it"),
        ({"PYTHON": "nowhere"}, 2, "no usable Python: sfl needs 3.11 or newer"),
        ({"SFL_VENV_GB": "lots"}, 2, "SFL_VENV_GB=lots is no whole number of gigabytes"),
        ({"SFL_VENV_GB": "1000000", "PYTHON": REAL}, 6, "not enough disk: setting up .venv takes"),
    ):
        found, line = refused(repository, env)
        assert found == code and line.startswith(f"error: {says}"), line
    (repository.root / ".venv.lock").unlink()
    (repository.root / ".venv.lock").mkdir()  # root could write to any other folder
    found, line = refused(repository)
    assert found == 6 and line.startswith(f"error: can't set up {repository.venv}: "), line
    assert repository.installs == 0


def test_what_pip_cannot_do_is_told_and_given_back(repository: Repository) -> None:
    away = "--isolated --retries 1 --index-url http://127.0.0.1:1/ --target target no-such"
    for pip, code, says in (
        ("echo ERROR: no-such; exit 1", 3, "the packages can't be installed: no-such (see"),
        ("echo no-such words; kill -9 $$", 3, "the packages can't be installed: no-such words"),
        (f'"{REAL}" -I -m pip install {away}; exit', 3, "the package index can't be reached"),
        ("echo 'ERROR: [Errno 28] No space left on device'; exit 1", 6, "no space left on the"),
        ("echo 'Installing', and no room for more; exit 1", 6, "no space left on the disk"),
        ("echo 49 >mb-free; echo Error: a command failed; exit 1", 6, "no space left on the disk"),
    ):
        repository.pip_does(pip)
        found, line = refused(repository, before=1)
        assert found == code and line.startswith(f"error: {says}"), line
        log = repository.root / ".venv.log"
        assert code == 6 or (str(log) in line and "no-such" in log.read_text())
        assert not repository.venv.exists()


def test_scripts_test_runs_every_step_and_ends_with_pytest(repository: Repository) -> None:
    repository.set_up()
    python = repository.venv / "bin" / "python"
    write_program(python, 'echo "ran $*"; case "$*" in *mypy*) exit 1 ;; esac')
    for script in ("scripts/test", ".ci/run"):
        code, output, _ = repository.call(script, "--slow", "-k", "a b", cwd=Path("/"))
        assert code == 1
        ran = [line for line in output.splitlines() if line.startswith("ran")]
        last = "pytest --numprocesses auto --dist worksteal --slow -k a b"
        expected = ["ruff check", "ruff format --check", "mypy", last]
        assert ran == [f"ran -m {step}" for step in expected]
        assert "== failed: mypy" in output
        assert output.splitlines()[-1] == f"ran -m {last}"
    write_program(python, "exit 0")
    assert repository.call(".ci/run")[0] == 0


BACKEND = '''
"""A build backend that needs nothing from an index: an editable sfl in one zip file."""
import zipfile

def get_requires_for_build_editable(config_settings=None):
    return []

def build_editable(directory, config_settings=None, metadata_directory=None):
    name, info = "sfl-0.1.0-py3-none-any.whl", "sfl-0.1.0.dist-info"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.writestr("sfl_stand_in.py", "def main(): print('it works')")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: sfl\\nVersion: 0.1.0\\n"
                       "Provides-Extra: dev\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\n"
                       "Root-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\\nsfl = sfl_stand_in:main\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
'''


@pytest.mark.slow
def test_the_real_venv_and_the_real_pip(repository: Repository) -> None:
    (repository.programs / "python3").unlink()
    (repository.programs / "python3").symlink_to(REAL)
    (repository.root / "backend.py").write_text(BACKEND)
    (repository.root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    code, output, error = repository.call("scripts/sfl")
    assert (code, output) == (0, "it works\n"), error
    assert repository.call("scripts/sfl") == (0, "it works\n", "")
    with (repository.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    for env in (NONE, {"PYTHON": REAL}, {"PYTHON": str(repository.venv / "bin" / "python")}):
        code, output, error = repository.call("scripts/sfl", env=env)
        assert (code, output) == (0, "it works\n")
        assert error == ("" if env else "updating .venv (pyproject.toml has changed) …\n")
