"""What the functions of sfl/library.py return: records, shown as tables in a notebook."""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from pydantic import Field

from sfl.comparison.schema import Comparison
from sfl.config.schema import Config
from sfl.runs.records import Copies, Published, Result, Scores


class TrainedRun(Result):
    """A finished run: what its result.json holds; `path`: its directory; `config`: its settings."""

    path: Path = Field(exclude=True)
    config: Config = Field(exclude=True)

    def __fspath__(self) -> str:
        """So that it can be given where a run's directory is asked for."""
        return str(self.path)

    def __repr__(self) -> str:
        epochs = f"{self.run}: {self.epochs} epoch{'s' * (self.epochs > 1)}"
        saved = f"{epochs} in {self.seconds:.0f} s; saved in {self.path}"
        return "\n".join([*_scores_lines(self), saved])

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return _scores_html(self, repr(self))


class Evaluated(Scores, Copies):
    """What a test gave. answers: for each test image its `file` or number, `class`, `prediction`,
    `confidence` and whether that is `correct`."""

    file: str = Field(description="The weights that were tested.")
    published: Published | None = Field(
        None, description="Of a file of `sfl export`: what it says of itself."
    )
    answers: list[dict[str, Any]] = Field(exclude=True)

    def __repr__(self) -> str:
        return "\n".join([*_scores_lines(self), self.file])

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return _scores_html(self, repr(self))


class Compared(Comparison):
    """A comparison, or a study."""

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it: docs/compare.schema.json."""
        return self.model_dump()

    def __repr__(self) -> str:
        from sfl.units import percent_text

        each = ", ".join(f"{model.name} {percent_text(model.accuracy)}" for model in self.models)
        return f"<{type(self).__name__}: {each}>"

    def __str__(self) -> str:
        """As `--markdown` prints it."""
        from sfl.comparison.markdown import to_markdown

        return to_markdown(self)

    def _repr_html_(self) -> str:
        from sfl.comparison.cells import sheets
        from sfl.comparison.report import html_table
        from sfl.comparison.table import rows

        tables = [html_table(one.head, one.rows, one.title) for one in sheets(self)]
        if self.grid is None or len(self.grid.axes) < 2:
            tables.insert(0, html_table(["", *(model.name for model in self.models)], rows(self)))
        return "".join(tables) + _paragraphs([*self.conclusion, *self.remarks])


def _scores_lines(scores: Scores) -> list[str]:
    from sfl.cli.tables import result_lines

    return result_lines(scores.to_dict())


def _scores_html(scores: Scores, text: str) -> str:
    from sfl.comparison.report import html_table
    from sfl.units import percent_text

    table = html_table(
        ["true class", "images", "accuracy"],
        (
            (name, [f"{sum(row):,}", "" if accuracy is None else percent_text(accuracy)])
            for (name, accuracy), row in zip(
                scores.per_class.items(), scores.confusion, strict=True
            )
        ),
    )
    return _paragraphs(text.splitlines()) + table


def _paragraphs(lines: Iterable[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)
