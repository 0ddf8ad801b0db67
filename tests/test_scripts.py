"""Set-up in one command, through the real shell scripts. Only venv and pip are stand-ins here, so
that a set-up takes milliseconds; one slow test does it with the real ones.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"

# Takes the place of make_venv.py, loads it, and gives it the stand-ins.
DRIVER = """
import importlib.util, sys
from pathlib import Path

here = Path(__file__).parent
spec = importlib.util.spec_from_file_location("real", here / "real_make_venv.py")
real = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real)
real_run = real.run

def run(lock, command, environment=None):
    venv = ["/bin/sh", str(here / "fake-venv"), sys.executable]
    real_run(lock, venv if "venv" in command else command, environment)

real.run = run
real.pip = lambda: ["/bin/sh", str(here / "fake-pip")]
sys.exit(real.main())
"""
FAKE_VENV = f"""
mkdir -p .venv/bin .venv/lib/{VERSION}
ln -s "$1" .venv/bin/python
"""
# Counts itself, does what the test wrote into pip-does, installs an sfl that shows its arguments.
FAKE_PIP = r"""
echo install >> installs
[ ! -f pip-does ] || . ./pip-does
printf '%s\n' '#!/bin/sh' 'printf "%s\n" "$PWD" "$@"' > .venv/bin/sfl
chmod +x .venv/bin/sfl
"""


def write_program(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # a link to the real Python must not be written through
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


class Repository:
    """A copy of the scripts in a folder of its own, with a pyproject.toml."""

    def __init__(self, root: Path, programs: Path) -> None:
        self.root = root
        self.programs = programs
        self.environment = {"PATH": f"{programs}:{os.environ['PATH']}", "SFL_VENV_GB": "0"}

    def start(self, *command: str, cwd: Path | None = None, **env: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [str(self.root / command[0]), *command[1:]],
            cwd=cwd or self.root,
            env={**self.environment, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def call(self, *command: str, cwd: Path | None = None, **env: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        process = self.start(*command, cwd=cwd, **env)
        output, error = process.communicate(timeout=60)
        return process.returncode, output, error

    def pip_does(self, shell: str) -> None:
        (self.root / "pip-does").write_text(shell)

    @property
    def installs(self) -> int:
        path = self.root / "installs"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    root = tmp_path / "a repository"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    shutil.copytree(ROOT / ".ci", root / ".ci")
    scripts = root / "scripts"
    (scripts / "make_venv.py").rename(scripts / "real_make_venv.py")
    (scripts / "make_venv.py").write_text(DRIVER)
    (scripts / "fake-venv").write_text(FAKE_VENV)
    (scripts / "fake-pip").write_text(FAKE_PIP)
    (root / "pyproject.toml").write_text("[project]\n")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3").symlink_to(PYTHON)
    return Repository(root, programs)


@pytest.fixture(scope="module")
def make_venv() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_venv", ROOT / "scripts" / "make_venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited 30 s in vain"
        time.sleep(0.01)


def test_the_first_call_sets_up_and_the_second_installs_nothing(
    repository: Repository, tmp_path: Path
) -> None:
    code, output, error = repository.call("scripts/sfl", "runs", "a b", "--json", cwd=tmp_path)
    assert (code, output) == (0, f"{tmp_path}\nruns\na b\n--json\n")
    assert error == "setting up .venv (once, about 6 GB, a few minutes) …\n"
    code, output, error = repository.call("scripts/sfl", "x", cwd=tmp_path)
    assert (code, output, error) == (0, f"{tmp_path}\nx\n", "")
    assert repository.installs == 1


def test_the_second_call_starts_no_python(repository: Repository) -> None:
    repository.call("scripts/setup-env")
    write_program(repository.programs / "python3", "touch started")
    write_program(repository.root / ".venv" / "bin" / "python", "touch started")
    assert repository.call("scripts/setup-env") == (0, "", "")
    assert not (repository.root / "started").exists()


def test_a_link_to_the_script_works(repository: Repository, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("a repository/scripts/sfl")
    code, output, _ = repository.call(str(link), "x", cwd=tmp_path)
    assert (code, output) == (0, f"{tmp_path}\nx\n")


def test_a_changed_pyproject_is_installed_into_the_same_venv(repository: Repository) -> None:
    repository.call("scripts/setup-env")
    mark = repository.root / ".venv" / "mark"
    mark.touch()
    (repository.root / "pyproject.toml").write_text("[project] # changed\n")
    code, _, error = repository.call("scripts/setup-env")
    assert (code, error) == (0, "updating .venv (pyproject.toml has changed) …\n")
    assert repository.call("scripts/setup-env") == (0, "", "")
    assert repository.installs == 2
    assert mark.exists()


def test_an_update_that_fails_leaves_what_was(repository: Repository) -> None:
    repository.call("scripts/setup-env")
    before = (repository.root / "pyproject.toml").read_text()
    (repository.root / "pyproject.toml").write_text("[project] # changed\n")
    repository.pip_does("echo ERROR: no such package; exit 1")
    code, _, error = repository.call("scripts/setup-env")
    assert code == 3
    assert "the packages can't be installed: no such package" in error
    (repository.root / "pyproject.toml").write_text(before)
    assert repository.call("scripts/setup-env") == (0, "", "")


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_venv_from_elsewhere_is_made_anew(repository: Repository, how: str) -> None:
    repository.call("scripts/setup-env")
    (repository.root / ".venv" / "mark").touch()
    other = repository.root.with_name("other")
    if how == "moved":
        repository.root.rename(other)
    else:
        shutil.copytree(repository.root, other, symlinks=True)
    moved = Repository(other, repository.programs)
    code, _, error = moved.call("scripts/setup-env")
    assert code == 0
    assert error.startswith("setting up .venv")
    assert not (other / ".venv" / "mark").exists()


def test_a_removed_python_is_noticed(repository: Repository) -> None:
    repository.call("scripts/setup-env")
    python = repository.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert repository.call("scripts/setup-env")[0] == 0
    assert repository.installs == 2


def test_another_version_of_python_can_be_asked_for(repository: Repository) -> None:
    repository.call("scripts/setup-env")
    assert repository.call("scripts/setup-env", PYTHON="python3") == (0, "", "")
    library = repository.root / ".venv" / "lib"
    (library / VERSION).rename(library / "python3.0")
    assert repository.call("scripts/setup-env", PYTHON="python3")[0] == 0
    assert repository.installs == 2


def test_two_at_once_install_once(repository: Repository) -> None:
    repository.pip_does("sleep 1")
    both = [repository.start("scripts/sfl", "x") for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert repository.installs == 1
    assert sorted(error.split()[0] for error in errors) == ["setting", "waiting"]


def stop_midway(repository: Repository, send: Callable[[int], None]) -> tuple[int, str]:
    """Starts a set-up, and stops it while pip is at work. Gives its exit code and its words."""
    repository.pip_does("touch .venv/half; exec sleep 60")
    process = repository.start("scripts/setup-env")
    wait_for((repository.root / ".venv" / "half").exists)
    send(process.pid)
    error = process.communicate(timeout=60)[1]
    (repository.root / "pip-does").unlink()
    return process.returncode, error


def check_repair(repository: Repository) -> None:
    code, _, error = repository.call("scripts/sfl", "x")
    assert (code, repository.installs) == (0, 2)
    assert error.startswith("setting up .venv")
    assert not (repository.root / ".venv" / "half").exists()


def test_a_killed_set_up_is_repaired(repository: Repository) -> None:
    code, _ = stop_midway(repository, lambda pid: os.killpg(pid, signal.SIGKILL))
    assert code == -signal.SIGKILL
    assert (repository.root / ".venv").exists()
    check_repair(repository)


def test_ctrl_c_is_repaired(repository: Repository) -> None:
    code, error = stop_midway(repository, lambda pid: os.killpg(pid, signal.SIGINT))
    assert code == 130
    assert error.splitlines()[-1] == "interrupted; the next call sets up .venv anew"
    assert not (repository.root / ".venv").exists()
    check_repair(repository)


def test_a_terminated_set_up_takes_pip_with_it(repository: Repository) -> None:
    code, _ = stop_midway(repository, lambda pid: os.kill(pid, signal.SIGTERM))
    assert code == 143  # and stop_midway has seen the end of standard error, which pip had open
    assert not (repository.root / ".venv").exists()
    check_repair(repository)


def test_the_lock_is_held_until_an_orphaned_pip_has_ended(repository: Repository) -> None:
    repository.pip_does("touch .venv/half; sleep 2; touch pip-ended")
    process = repository.start("scripts/setup-env")
    wait_for((repository.root / ".venv" / "half").exists)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    repository.pip_does("[ -f pip-ended ]")
    code, _, error = repository.call("scripts/setup-env")
    assert (code, repository.installs) == (0, 2)
    assert error.startswith("waiting for another set-up of .venv …\n")


def test_without_python_one_line_says_so(repository: Repository, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("dirname", "readlink", "cat"):
        (tools / name).symlink_to(str(shutil.which(name)))
    code, output, error = repository.call("scripts/sfl", "x", PATH=str(tools))
    assert (code, output, error.count("\n")) == (2, "", 1)
    assert error.startswith("error: no usable Python: sfl needs 3.11 or newer; install one")


def test_a_python_that_is_too_old_is_named(repository: Repository) -> None:
    write_program(repository.programs / "old", "exit 1")
    code, output, error = repository.call("scripts/sfl", PYTHON="old")
    assert (code, output, error.count("\n")) == (2, "", 1)
    assert "PYTHON=old is not" in error


def test_a_python_without_venv_is_named(repository: Repository) -> None:
    write_program(repository.programs / "bare", "exit 3")  # what the probe exits with
    code, output, error = repository.call("scripts/sfl", PYTHON="bare")
    assert (code, output, error.count("\n")) == (2, "", 1)
    assert "bare has no venv module" in error


def test_a_python_that_does_not_work_is_passed_over(repository: Repository) -> None:
    write_program(repository.programs / "python3", "echo no such version >&2; exit 127")
    (repository.programs / "python3.14").symlink_to(PYTHON)
    code, _, error = repository.call("scripts/setup-env")
    assert (code, error.count("\n")) == (0, 1)


def test_too_little_disk_is_one_line_and_installs_nothing(repository: Repository) -> None:
    code, output, error = repository.call("scripts/sfl", "x", SFL_VENV_GB="1000000")
    assert (code, output, error.count("\n"), repository.installs) == (6, "", 1, 0)
    assert error.startswith("error: not enough disk: setting up .venv takes 1e+06 GB")


def test_a_disk_that_fills_up_is_named_and_given_back(repository: Repository) -> None:
    repository.pip_does("echo 'ERROR: [Errno 28] No space left on device'; exit 1")
    code, output, error = repository.call("scripts/sfl", "x")
    assert (code, output) == (6, "")
    assert error.splitlines()[1].startswith("error: no space left on the disk")
    assert not (repository.root / ".venv").exists()


def test_a_wrong_setting_of_the_disk_check_is_one_line(repository: Repository) -> None:
    code, _, error = repository.call("scripts/sfl", "x", SFL_VENV_GB="lots")
    assert (code, error) == (2, "error: SFL_VENV_GB=lots is no number of gigabytes\n")


def test_an_unreachable_index_is_named(repository: Repository) -> None:
    repository.pip_does("echo 'WARNING: Retrying (Retry(total=4)) after connection broken'; exit 1")
    code, output, error = repository.call("scripts/sfl", "x")
    assert (code, output) == (3, "")
    assert error.splitlines()[1].startswith("error: the package index can't be reached")
    assert str(repository.root / ".venv.log") in error
    assert "connection broken" in (repository.root / ".venv.log").read_text()


def test_what_pip_says_of_an_unreachable_index_is_understood(
    make_venv: ModuleType, tmp_path: Path
) -> None:
    command = [sys.executable, "-I", "-m", "pip", "--isolated", "--retries", "1", "install"]
    command += ["--index-url", "http://127.0.0.1:1/", "--target", str(tmp_path), "sfl-no-such"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    failure = make_venv.explain(done.stdout + done.stderr)
    assert failure.code == 3
    assert str(failure).startswith("the package index can't be reached")


def test_scripts_test_runs_every_step_and_ends_with_pytest(repository: Repository) -> None:
    repository.call("scripts/setup-env")
    python = repository.root / ".venv" / "bin" / "python"
    write_program(python, 'echo "ran $*"; case "$*" in *mypy*) exit 1 ;; esac')
    for script in ("scripts/test", ".ci/run"):
        code, output, _ = repository.call(script, "--slow", "-k", "a b", cwd=Path("/"))
        assert code == 1
        ran = [line for line in output.splitlines() if line.startswith("ran")]
        expected = ["ruff check", "ruff format --check", "mypy", "pytest --slow -k a b"]
        assert ran == [f"ran -m {step}" for step in expected]
        assert "== failed: mypy" in output
        assert output.splitlines()[-1] == "ran -m pytest --slow -k a b"
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
    scripts = repository.root / "scripts"
    (scripts / "real_make_venv.py").replace(scripts / "make_venv.py")
    (repository.root / "backend.py").write_text(BACKEND)
    (repository.root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    code, output, error = repository.call("scripts/sfl")
    assert (code, output) == (0, "it works\n"), error
    assert repository.call("scripts/sfl") == (0, "it works\n", "")
    with (repository.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    code, output, error = repository.call("scripts/sfl")
    assert (code, output) == (0, "it works\n")
    assert error.startswith("updating .venv")
