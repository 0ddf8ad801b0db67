"""A comparison as a table in LaTeX, with the rules of booktabs, ready for a paper."""

from collections.abc import Sequence

from sfl.comparison.cells import by_place
from sfl.comparison.schema import Comparison, Difference, Grid, Model
from sfl.comparison.table import NONE, mean_explained, mean_text
from sfl.units import one_line, points_text

SIGNS = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "|": r"\textbar{}", "�": "?", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "–": "--",
    "<": r"\textless{}",    ">": r"\textgreater{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip
STARRED = "$^*$: unlike the first by more than chance"


def to_latex(comparison: Comparison) -> str:
    """Of a study with two axes a row for each variant of the first, a column of the second.

    Else a row for each model: n, accuracy, the difference from the first, its p. What the author
    must know beside it (unfinished runs, failures) is in comments before the table.
    """
    grid = comparison.grid
    two = grid is not None and len(grid.axes) > 1
    columns, head, rows = _by_axes(comparison, grid) if two and grid else _by_model(comparison)
    explained = mean_explained(comparison)
    caption = f"{escaped(explained[0].upper() + explained[1:])}."
    if _beyond(comparison.differences):
        corrected = ", corrected by Holm's method" if len(comparison.differences) > 1 else ""
        caption += f" {STARRED} (5 \\%{corrected})."
    label = "".join(sign for sign in (grid.name if grid else "comparison") if sign.isalnum())
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{caption}}}",
        rf"  \label{{tab:{label}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        *(f"    {line}" for line in head),
        r"    \midrule",
        *(rf"    {' & '.join(row)} \\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    said = ["needs \\usepackage{booktabs}", *comparison.remarks]
    return "\n".join([*(f"% {one_line(each)}" for each in said), *lines]) + "\n"


def escaped(text: str) -> str:
    """Text on one line in which no sign has a meaning in LaTeX."""
    return "".join(SIGNS.get(sign, sign) for sign in one_line(text))


def _by_axes(comparison: Comparison, grid: Grid) -> tuple[str, list[str], list[list[str]]]:
    (down, rows), (across, columns) = grid.axes.items()
    places, beyond = by_place(comparison, grid), _beyond(comparison.differences)
    span = f"\\multicolumn{{{len(columns)}}}{{c}}{{{escaped(across)}}}"
    head = [
        rf" & {span} \\ \cmidrule(lr){{2-{len(columns) + 1}}}",
        rf"{' & '.join(map(escaped, [down, *columns]))} \\",
    ]
    counted = len({model.n for model in comparison.models}) > 1
    made = []
    for row in rows:
        found = [places.get((row, column)) for column in columns]
        cells = [_mean(one[0], beyond, counted) if one else escaped(NONE) for one in found]
        made.append([escaped(row), *cells])
    return "l" + "r" * len(columns), head, made


def _by_model(comparison: Comparison) -> tuple[str, list[str], list[list[str]]]:
    beyond = _beyond(comparison.differences)
    p = "$p$, corrected" if len(comparison.differences) > 1 else "$p$"
    labels = [model.label for model in comparison.models]
    made, before = list[list[str]](), None
    for model, difference in zip(comparison.models, [None, *comparison.differences], strict=True):
        if len(set(labels)) > 1 and model.label and model.label != before:
            made.append([rf"\multicolumn{{5}}{{l}}{{\emph{{{escaped(model.label)}}}}}"])
        before = model.label
        apart = points_text(difference.accuracy) if difference else NONE
        mean = _mean(model, beyond, counted=False)
        cells = [str(model.n), mean, escaped(apart), escaped(_p(difference))]
        made.append([escaped(model.name), *cells])
    return "lrrrr", [rf"model & $n$ & accuracy, \% & difference, points & {p} \\"], made


def _p(difference: Difference | None) -> str:
    if difference is None or difference.p is None:
        return NONE
    p = difference.p if difference.p_corrected is None else difference.p_corrected
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _beyond(differences: Sequence[Difference]) -> set[str]:
    return {each.second for each in differences if each.is_beyond_chance}


def _mean(model: Model, beyond: set[str], counted: bool) -> str:
    """Its accuracy, starred if it differs from the first one's; counted: with its n."""
    star, runs = "$^*$" * (model.name in beyond), f" ($n$ = {model.n})" * counted
    return escaped(mean_text(model)) + star + runs
