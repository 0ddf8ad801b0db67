"""Exit codes are an interface: scripts of users test for these numbers."""

import pytest

from sfl.errors import Exit, UserError


def test_exit_codes_are_those_of_the_design() -> None:
    assert {code.name: int(code) for code in Exit} == {
        "DONE": 0,
        "BUG": 1,
        "USAGE": 2,
        "DATA": 3,
        "RUN": 4,
        "DIVERGED": 5,
        "RESOURCES": 6,
        "WORSE": 7,
        "INTERRUPTED": 130,
        "TERMINATED": 143,
    }


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("x.yaml:3: wrong"), "x.yaml:3: wrong"),
        (UserError("x: gone", "look elsewhere"), "x: gone (look elsewhere)"),
    ],
)
def test_the_hint_stands_behind_the_message(error: UserError, line: str) -> None:
    assert str(error) == line
    assert error.exit_code is Exit.USAGE
