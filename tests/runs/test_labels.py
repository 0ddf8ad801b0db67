"""The label of each kind of network, from its config and its audit; what groups tables by it."""

from pathlib import Path

import pytest

from sfl.comparison.compute import compare
from sfl.comparison.latex import to_latex
from sfl.comparison.model import ComparedModel, grouped, label_of
from sfl.comparison.results import read_result
from sfl.config.load import from_text
from sfl.runs.directory import Run
from sfl.runs.labels import LABELS, explained, label
from sfl.training.audit import audit_model
from tests.conftest import make_run

SLEEPING = "learn: {sleep: {every: 10}}"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("model: {name: SimpleModel}", "pure"),
        ("model: {name: SpatialDenseNet, norm: position}", "pure"),
        ("model: {name: SpatialDenseNet, norm: channel}", "pure"),  # the grade says soft
        ("model: {name: SimpleModel, storage: dense}", "pure"),
        ("model: {name: RegularConvNet}", "shared"),
        (f"model: {{name: SimpleModel}}\n{SLEEPING}", "in time"),
    ],
)
def test_a_config_says_what_it_is(settings: str, expected: str) -> None:
    config = from_text(settings + "\n", "c.yaml")
    found = label(config, audit_model(config, (3, 32, 32), 10).sharing)
    assert found == expected and explained(found) == f"{expected}: {LABELS[expected]}"


def test_several_labels_are_joined_and_explained() -> None:
    config = from_text("model: {name: SimpleModel}\n", "c.yaml")
    for section, name, value in (("model", "same_start", True), ("train", "teacher", "conv-s0")):
        settings = getattr(config, section)
        changed = settings.model_copy(update={name: value})
        config = config.model_copy(update={section: changed})
    found = label(config, "in time")
    assert found == "conv-like start, student of a sharing teacher, in time"
    assert explained(found).count(";") == 2


@pytest.mark.parametrize(
    ("of_teacher", "expected"),
    [
        ("pure", "student of a pure teacher"),
        ("student of a pure teacher", "student of a pure teacher"),
        ("conv-like start", "student of a sharing teacher"),
        ("student of a sharing teacher", "student of a sharing teacher"),
        (None, "student of a sharing teacher"),  # of an earlier version
    ],
)
def test_a_student_is_what_its_teacher_was(of_teacher: str | None, expected: str) -> None:
    config = from_text("model: {name: SimpleModel}\ntrain: {teacher: t-s0}\n", "c.yaml")
    assert label(config, "strict", {"label": of_teacher, "sha256": "1f"}) == expected


def model(path: Path, name: str, sharing: str | None) -> ComparedModel:
    numbers = dict.fromkeys(("shared", "statistics", "transported", "bits", "own_scales"), 0)
    words: dict[str, object] = {"transport": "strict", "in_words": [], "layers": []}
    audit = {**numbers, **words, "sharing": sharing}
    run = make_run(path / name, audit=audit) if sharing else make_run(path / name)
    config = from_text("model: {name: SimpleModel}\n", "c.yaml")
    return ComparedModel(name, config, results=[read_result(Run(run))])


def test_the_label_that_a_run_has_is_taken(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", label="student of a pure teacher")
    config = from_text("model: {name: SimpleModel}\n", "c.yaml")
    found = label_of(ComparedModel("a", config, results=[read_result(Run(run))]))
    assert found == "student of a pure teacher"


def test_models_of_one_label_stand_beside_each_other(tmp_path: Path) -> None:
    grades = {"a": "shared", "b": "strict", "old": None, "c": "shared", "d": "soft"}
    models = grouped([model(tmp_path, name, grade) for name, grade in grades.items()])
    assert [one.name for one in models] == ["a", "c", "b", "d", "old"]
    assert [label_of(one) for one in models] == ["shared", "shared", "pure", "pure", None]
    comparison = compare(models)
    assert [one.label for one in comparison.models] == [label_of(one) for one in models]
    assert "By its label it is shared (a, c); pure (b, d)" in " ".join(comparison.methods)
    latex = to_latex(comparison)
    places = [latex.index(part) for part in (r"\emph{shared}", "a &", "c &", r"\emph{pure}", "b &")]
    assert places == sorted(places)
