"""A comparison as a table in LaTeX: its rows by hand, and names that mean nothing there."""

import re
from pathlib import Path

import pytest

from sfl.comparison.grid import run_grid
from sfl.comparison.latex import escaped, to_latex
from sfl.config.grid import Grid
from tests.comparison.test_grid import study
from tests.conftest import call_sfl as sfl
from tests.conftest import make_run
from tests.stand_ins import configs, images, trained

__all__ = ["configs", "images", "study", "trained"]


def rows(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.endswith(r"\\")]


def test_a_row_for_each_model(tmp_path: Path) -> None:
    """t(0.975; 1) = 12.706 times 0.5 and 4 points by hand; p: 2 and 1 times scipy's."""
    for name, accuracies in {"a_1": (0.50, 0.51), "b": (0.80, 0.81), "c": (0.52, 0.60)}.items():
        for seed, accuracy in enumerate(accuracies):
            config = f"model: {{name: SimpleModel, channels: [{ord(name[0])}]}}"
            run = tmp_path / "runs" / f"{name}-s{seed}"
            make_run(run, f"{config}\ntrain: {{seed: {seed}}}", accuracy=accuracy)
    names = [f"{name}-s{seed}" for name in ("a_1", "b", "c") for seed in (0, 1)]
    done = sfl("compare", *names, "--latex", "--runs", tmp_path / "runs", "--data-name", "A & B")
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout) == [
        r"model & $n$ & accuracy, \% & difference, points & $p$, corrected \\",
        r"a\_1 & 2 & 50.50 $\pm$ 6.35 & -- & -- \\",
        r"b & 2 & 80.50 $\pm$ 6.35$^*$ & +30.00 & 0.0011 \\",
        r"c & 2 & 56.00 $\pm$ 50.82 & +5.50 & 0.3976 \\",
    ]
    assert r"A \& B, 100 test images, n = 2. $^*$: unlike" in done.stdout
    assert "corrected by Holm" in done.stdout
    assert "\n% what is more than chance is said by p-values of Welch's test" in done.stdout
    opened = re.findall(r"\\begin\{(\w+)\}", done.stdout)
    assert opened[::-1] == re.findall(r"\\end\{(\w+)\}", done.stdout) == ["tabular", "table"]
    two = sfl("compare", names[0], names[4], "--latex", "--runs", tmp_path / "runs").stdout
    # Wilson's interval of the result, 40 to 60 %: longer on one side of 52 %.
    assert rows(two)[1:] == [
        r"a\_1 & 1 & 50.00 $\pm$ 10.00 & -- & -- \\",
        r"c & 1 & 52.00 $\pm$ 12.00 & +2.00 & 0.5000 \\",
    ]
    assert "$^*$" not in two


def test_a_study_has_its_axes(study: Grid, runs_dir: Path) -> None:
    text = to_latex(run_grid(study, runs_dir)[0])
    assert r" & \multicolumn{2}{c}{learning} \\ \cmidrule(lr){2-3}" in text
    assert rows(text)[-3:] == [
        r"sharing & backprop & fa \\",
        r"local & 50.00 & 50.00 \\",
        r"conv & 50.00 & -- \\",
    ]
    assert r"\label{tab:study}" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"a\b{c}", r"a\textbackslash{}b\{c\}"),
        ("50 % & $x_1$ #2 ~^", r"50 \% \& \$x\_1\$ \#2 \textasciitilde{}\textasciicircum{}"),
        ("a\nb", "a?b"),
        ("−1 ± 2 <", r"$-$1 $\pm$ 2 \textless{}"),
    ],
)
def test_no_sign_has_a_meaning_in_latex(text: str, expected: str) -> None:
    assert escaped(text) == expected
