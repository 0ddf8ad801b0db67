"""Finding a config by path or name, and overriding it."""

from functools import partial
from pathlib import Path

import pytest

from sfl.config import load
from sfl.errors import Exit, UserError
from tests.conftest import refusal

ROOT = Path(__file__).parent.parent.parent
SIMPLE = "model: {name: SimpleModel}\n"


failure = partial(refusal, Exit.USAGE, load.load)


def test_named_configs_are_the_files_of_the_repository() -> None:
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert sorted({**load.named_configs(), **load.named_grids()}.values()) == files
    assert not set(load.named_configs()) & set(load.named_grids())
    names = {"conv", "spatial", "simple", "conv-local", "spatial-shared", "notebook/spatial"}
    assert names <= set(load.named_configs())


def test_named_configs_are_what_the_design_says() -> None:
    def model(name: str) -> tuple[object, ...]:
        settings = load.load(name).model
        return settings.name, settings.layer, settings.storage, settings.init

    assert model("conv") == ("RegularConvNet", "conv", None, "receptive_field")
    assert model("spatial") == ("SpatialDenseNet", "spatial", "local", "receptive_field")
    assert model("simple") == ("SimpleModel", "spatial", "local", "receptive_field")
    assert model("conv-local") == ("RegularConvNet", "spatial", "local", "receptive_field")
    assert model("spatial-shared") == ("SpatialDenseNet", "conv", None, "receptive_field")
    assert model("notebook/spatial") == ("SpatialDenseNet", "spatial", "dense", "notebook")
    assert model("notebook/simple") == ("SimpleModel", "spatial", "dense", "notebook")
    assert load.load("notebook/spatial").train.precision == "float32"


@pytest.mark.parametrize("name", ["spatial", "configs/spatial.yaml"])
def test_what_ships_is_found_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load.find(name) == load.named_configs()["spatial"]


def test_a_config_of_the_current_folder_goes_before_what_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = Path("configs") / "spatial.yaml"
    mine.parent.mkdir()
    mine.write_text(SIMPLE)
    assert load.find("spatial") == mine
    assert load.find("configs/spatial.yaml") == mine
    Path("spatial").mkdir()  # a folder of that name is in nobody's way
    assert load.find("spatial") == mine


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("spatail", "spatail: no such config: did you mean spatial? (give the path of a YAML"),
        ("none.yaml", "none.yaml: no such config"),
        (".", ".: a folder, not a config file (give the path of a YAML file, or one of board/conv"),
        ("x" * 5000, "xxx: no such config"),
    ],
)
def test_a_config_that_is_not_there(
    name: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert line in failure(name)


def test_overrides_are_read_as_yaml_and_the_last_one_counts() -> None:
    made = load.load(
        "spatial",
        ["optimizer.lr=1e-3", "train.epochs=7", "train.epochs=9", "data.augment={flip: false}"],
    )
    assert made.optimizer.lr == 0.001
    assert made.train.epochs == 9
    assert made.data.augment.flip is False


def test_an_override_may_hold_equals_signs() -> None:
    assert load.load("spatial", ["data.root=a=b"]).data.root == "a=b"


TEXTS = [
    "images #2", "a: b", "&x", "*x", "!!x", "null", "~", "2024", "1e5", "true", "'a'", '"a"', "[a",
    "{a", "a\udcff", "a\nb", "a\n", " a ", " ", "😀", "C:\\x", "%x", "- a", "#a", "a=b", "---",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_setting_takes_the_argument_as_it_is(text: str) -> None:
    made = load.load("spatial", [f"data.root={text}", f"data.mirror={text}"])
    assert made.data.root == text
    assert made.data.mirror == (None if text == "null" else text)  # it has None as its default
    assert load.override(made, [f"data.root={text}"]) == made
    assert load.from_text(made.to_yaml(), "config.yaml") == made


def test_null_is_a_default_only_where_the_setting_may_be_none() -> None:
    assert load.load("spatial", ["data.mirror=http://a", "data.mirror=null"]).data.mirror is None
    assert load.load("spatial", ["train.epochs=null"]).train.epochs == 5
    assert failure("spatial", ["train.device=null"]).endswith('mps, not "null"')


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("data.root=", "leave it out"),
        ("data.mirror=", "data.mirror=null"),
        ("train.epochs= ", "train.epochs=null"),
        ("data.nothing=", "data.nothing=null"),
    ],
)
def test_a_setting_without_a_value(override: str, hint: str) -> None:
    said = f"--set {override}: has no value (for the default: {hint})"
    assert failure("spatial", [override]) == said


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.epochs", "--set train.epochs: expected a.b=value, as in train.epochs=20"),
        ("=3", "--set =3: expected a.b=value, as in train.epochs=20"),
        ("train..epochs=3", "--set train..epochs=3: expected a.b=value, as in train.epochs=20"),
        ("train.epochs=0", "--set train.epochs=0: train.epochs: must be at least 1, not 0"),
        (
            "train.epohcs=3",
            "--set train.epohcs=3: unknown key train.epohcs: did you mean epochs?; allowed: epochs",
        ),
        ("train.epochs=[1", "--set train.epochs=[1: '[1' is not a YAML value"),
        ("model.name.x=1", "--set model.name.x=1: model.name is a value and has no keys"),
        ("extends=spatial", "--set extends=spatial: unknown key extends; allowed: model"),
    ],
)
def test_overrides_get_the_same_checks_as_a_file(override: str, line: str) -> None:
    assert failure("simple", [override]).startswith(line)


def test_mistakes_of_a_file_and_of_overrides_come_together(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SIMPLE + "train:\n  epochs: 0\n")
    with pytest.raises(UserError) as caught:
        load.load(path, ["train.seed=-1"])
    assert caught.value.exit_code is Exit.USAGE
    assert str(caught.value).split("\n") == [
        "--set train.seed=-1: train.seed: must be at least 0, not -1",
        f"{path}:3: train.epochs: must be at least 1, not 0",
    ]


def test_a_setting_that_an_override_makes_wrong_is_named_where_it_stands() -> None:
    line = failure("spatial", ["model.layer=conv"])
    number = 1 + load.find("spatial").read_text().split("\n").index("  storage: local")
    assert f"spatial.yaml:{number}: model.storage: local is only for layer: spatial" in line
    assert "--set model.storage=null" in line
    made = load.load("spatial", ["model.layer=conv", "model.storage=null"])  # as it says
    assert made.identity() == load.load("spatial-shared").identity()


def test_override_of_a_config_that_is_there() -> None:
    made = load.load("quickstart")
    assert load.override(made, []) is made
    assert load.override(made, ["train.seed=3"]).train.seed == 3
    assert load.override(made, ["train.seed=3"]).identity() == made.identity()
    with pytest.raises(UserError, match=r"^--set train\.seed=x: train\.seed: expected a whole"):
        load.override(made, ["train.seed=x"])


@pytest.mark.parametrize("text", ["", "- a", SIMPLE + "future: 1\n", "a: ["])
def test_a_damaged_config_of_a_run_is_exit_4(text: str) -> None:
    with pytest.raises(UserError) as caught:
        load.from_text(text, "runs/a/config.yaml")
    assert caught.value.exit_code is Exit.RUN
    assert str(caught.value).startswith("runs/a/config.yaml")
    assert "(written by another version of sfl, or by hand?)" in str(caught.value)


def test_a_config_may_build_on_one_that_ships(tmp_path: Path) -> None:
    """By its name, wherever sfl is installed; a file of that path beside it comes first."""
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: notebook/simple\ntrain: {epochs: 9}\n")
    assert load.load(mine).model == load.load("notebook/simple").model
    assert load.load(mine).train.epochs == 9
    mine.write_text("extends: spatial\n")
    (tmp_path / "spatial").write_text("model: {name: SimpleModel}\n")
    assert load.load(mine).model.name == "SimpleModel"


def test_what_nobody_has_set_stays_unset_through_overrides() -> None:
    """A run whose data.root was absolute lacks it, and resuming must know."""
    kept = load.override(load.from_text(SIMPLE, "a"), ["train.seed=4"])
    assert kept.train.seed == 4 and "root" not in kept.data.model_fields_set
    assert "root" in load.override(kept, ["data.root=data"]).data.model_fields_set


def test_defaults_that_depend_on_a_setting_go_with_it() -> None:
    text = SIMPLE + "optimizer: {name: muon}\ntrain: {teacher: run, epochs: 1}\n"
    config = load.from_text(text, "a")
    assert (config.optimizer.momentum, config.train.teacher_share) == (0.95, 0.9)
    assert config.model.storage == "local"
    changed = ["optimizer.name=adamw", "train.teacher=null", "model.layer=conv"]
    other = load.override(config, changed)
    assert (other.optimizer.momentum, other.train.teacher_share) == (0, 0.9)
    assert (other.model.layer, other.model.storage) == ("conv", None)
    with pytest.raises(UserError, match="momentum: only for sgd and muon"):
        load.override(config, ["optimizer.momentum=0.5", "optimizer.name=adamw"])
