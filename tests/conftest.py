"""What all tests share. Imports nothing of sfl and no torch: some tests look at sys.modules."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: runs with --slow"))


@pytest.fixture(autouse=True)
def _no_settings_of_yours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test must neither read nor write the run directories of whoever runs it."""
    monkeypatch.delenv("SFL_RUNS", raising=False)


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """Where a test's run directories live; not made yet, as for a new user."""
    return tmp_path / "runs"
