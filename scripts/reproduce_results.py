"""The results table of the README: trains what is missing, keeps what a run says, writes the table.

Each run's config, environment, metrics and result go to docs/results/<name>/; what is there is not
trained again, what was stopped is gone on with. The table is made from these files alone.
"""

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from sfl.cli import exits
from sfl.comparison.plan import images_reader
from sfl.config.load import load
from sfl.jobs.job import Failure, Job
from sfl.jobs.pool import run_all
from sfl.runs.directory import CONFIG, ENVIRONMENT, METRICS, RESULT, Run
from sfl.runs.records import Result
from sfl.units import percent_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- results: made by scripts/reproduce -->", "<!-- end of results -->"
KEPT = (CONFIG, ENVIRONMENT, METRICS, RESULT)

# The images of a run by the fingerprint of their test split; a number is never shown without.
IMAGES = {
    "c3578a95941b92e2f47159a7c765fa0a32217fb5207a4962c32a284010340373": (
        "CIFAR-10 images re-encoded as JPEG"
    )
}


@dataclass(frozen=True)
class Row:
    """A line of the table: a config, what is set beside it, what the notebook printed.

    variant: tells apart the rows of one config.
    """

    config: str
    network: str
    notebook: str = ""
    overrides: tuple[str, ...] = ()
    variant: str = ""

    @property
    def name(self) -> str:
        return self.config.replace("/", "-") + self.variant


ROWS = (
    Row(
        "notebook/simple",
        "SimpleModel, dense, notebook init",
        "losses 2.694, 2.097, 2.073, 2.077, 2.075",
    ),
    Row("simple", "SimpleModel, local"),
    Row("spatial", "SpatialDenseNet, local"),
    Row(
        "spatial", "the same in float32", overrides=("train.precision=float32",), variant="-float32"
    ),
    Row("spatial-shared", "SpatialDenseNet, weights shared (twin of the above)"),
    Row(
        "notebook/spatial",
        "SpatialDenseNet, dense, notebook init",
        "losses 1.882, 1.622, 1.539, 1.482, 1.434; 52.73 %",
    ),
    Row(
        "notebook/conv",
        "RegularConvNet, PyTorch's init",
        "86.9 %, epochs unknown",
        ("train.epochs=60", "train.precision=auto"),
    ),
    Row("conv", "RegularConvNet (twin of the next)", overrides=("train.test_every=1",)),
    Row("conv-local", "RegularConvNet, local (nothing shared)"),
)


def main(given: list[str]) -> None:
    arguments = _parse(given)
    wanted = [row for row in ROWS if not arguments.only or row.name in arguments.only]
    for row in wanted if not arguments.table else ():
        if (RESULTS / row.name / RESULT).exists():
            print(f"{row.name}: is there", file=sys.stderr)
            continue
        _keep(row, _train(row, arguments.data, arguments.runs).path)
        write_table()
    write_table()


def _parse(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/reproduce", description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="a folder with train/<class>/* and test/<class>/*; else CIFAR-10"
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "checkpoints", help="run directories")
    names = [row.name for row in ROWS]
    parser.add_argument("--only", action="append", choices=names, help="may be repeated")
    parser.add_argument("--table", action="store_true", help="train nothing, write the table")
    return parser.parse_args(given)


def _train(row: Row, data: Path | None, runs: Path) -> Run:
    """The run of this row's config on these images: trained, or gone on with, if it isn't there."""
    folder = ["data.source=folder", f"data.root={data.resolve()}"] if data else []
    job = Job(f"{row.name}-s0", load(row.config, [*row.overrides, *folder]))
    (outcome,) = run_all([job], runs, images_reader({}))
    if isinstance(outcome, Failure):
        raise outcome.error
    return outcome


def _keep(row: Row, run: Path) -> None:
    (RESULTS / row.name).mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copy(run / name, RESULTS / row.name / name)


def write_table() -> None:
    """Puts the table between its marks in the README."""
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


def table() -> str:
    """The table, in Markdown, from docs/results alone."""
    there = [
        (row, Run(RESULTS / row.name)) for row in ROWS if (RESULTS / row.name / RESULT).exists()
    ]
    lines = [
        "| network | weights | losses of epochs 1–5 | test accuracy (95 %) | s/epoch | notebook |",
        "|---|--:|---|---|--:|---|",
        *(_line(row, run) for row, run in there),
    ]
    return "\n".join([*lines, "", *_footnotes([run for _, run in there])])


def _line(row: Row, run: Run) -> str:
    result = _result(run)
    losses = ", ".join(f"{line['train_loss']:.3f}" for line in run.metrics[:5])
    low, high = result.accuracy_interval
    accuracy = f"{percent_text(result.accuracy)} ({percent_text(low)} – {percent_text(high)})"
    if result.epochs != 5:
        accuracy += f" after {result.epochs} epochs{_milestones(run)}"
    link = f"[{row.network}](docs/results/{row.name}/)"
    return (
        f"| {link} | {result.weights:,} | {losses} | {accuracy} "
        f"| {result.seconds_per_epoch:.0f} | {row.notebook} |"
    )


def _milestones(run: Run) -> str:
    """For a long run with logged test accuracies: after 5 epochs, and where it passes 86.9 %."""
    logged = {
        line["epoch"]: line["test_accuracy"] for line in run.metrics if "test_accuracy" in line
    }
    if 5 not in logged:
        return ""
    passed = next((epoch for epoch, accuracy in logged.items() if accuracy >= 0.869), None)
    highest = f"doesn't reach 86.9 %, highest {percent_text(max(logged.values()))}"
    passing = f"passes 86.9 % in epoch {passed}" if passed else highest
    return f"; {percent_text(logged[5])} after 5; {passing}"


def _footnotes(runs: list[Run]) -> list[str]:
    """Images, machine, seeds: what the numbers rest on, and which rows where they differ."""
    rows: dict[str, list[str]] = {}
    for run in runs:
        rows.setdefault(_footnote(run), []).append(run.name)
    if len(rows) == 1:
        return list(rows)
    return [f"{', '.join(names)}: {note}" for note, names in rows.items()]


def _footnote(run: Run) -> str:
    environment, result = run.environment, _result(run)
    assert environment is not None
    test = result.data.test
    images = IMAGES.get(test, f"images with fingerprint {test[:12]}")
    return (
        f"{images}; {result.n:,} test images; {environment.threads} threads of "
        f"{environment.device}, torch {environment.packages['torch']}, "
        f"{environment.precision}; seed {run.config['train']['seed']}, n = 1."
    )


def _result(run: Run) -> Result:
    assert run.result is not None
    return run.result


if __name__ == "__main__":
    exits.run(main)
