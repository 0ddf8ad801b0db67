"""Runs side by side: means, intervals and differences by hand, costs, targets, refusals."""

from pathlib import Path
from typing import Any

import pytest

from sfl.comparison import sentences
from sfl.comparison.compute import compare
from sfl.comparison.model import ComparedModel
from sfl.comparison.results import read_result
from sfl.comparison.schema import Model
from sfl.comparison.table import rows
from sfl.config.load import from_text
from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.runs.directory import Run
from tests.conftest import ENVIRONMENT, make_run


def config(model: str = "{name: SimpleModel}") -> Config:
    return from_text(f"model: {model}\n", "c.yaml")


def group(name: str, paths: list[Path], model: str = "{name: SimpleModel}") -> ComparedModel:
    results = [read_result(Run(path)) for path in paths]
    return ComparedModel(name, config(model), results=results)


def log(path: Path, *lines: dict[str, Any]) -> Path:
    (common,) = Run(path).metrics
    Run(path).write_metrics([{**common, "epoch": n, **line} for n, line in enumerate(lines, 1)])
    return path


def test_means_and_what_is_taken_from_a_run(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path / f"a{i}", accuracy=a, loss=loss, seconds=s, peak_memory_bytes=peak)
        for i, (a, loss, s, peak) in enumerate(
            [(0.5, 1.0, 2.0, 7), (0.6, 2.0, 4.0, 9), (0.7, 3.0, 8.0, 8)]
        )
    ]
    single = make_run(tmp_path / "b", accuracy=0.45, accuracy_interval=[0.35, 0.55])
    found = compare([group("conv", paths), group("mine", [single], "{name: SpatialDenseNet}")])
    a, b = found.models
    assert (a.name, a.model, a.n, a.runs, a.seeds) == (
        "conv", "SimpleModel", 3, ["a0", "a1", "a2"], [0, 0, 0],
    )  # fmt: skip
    assert a.accuracy == pytest.approx(0.6) and a.accuracies == [0.5, 0.6, 0.7]
    assert a.accuracy_sd == pytest.approx(0.1)  # ddof = 1
    # Mean 0.6, s 0.1, n 3, t(0.975; 2) = 4.30265: half is 0.24841.
    assert a.accuracy_interval == pytest.approx([0.35159, 0.84841], abs=1e-5)
    assert a.interval_covers == "seeds"
    assert a.loss == pytest.approx(2.0)
    assert (a.layer, a.storage) == ("spatial", "local")
    assert (a.weights, a.weight_bytes, a.flops_per_image) == (1000, 4000, 2000)
    assert a.peak_memory_bytes == 9
    assert a.seconds == pytest.approx(14 / 3)
    assert a.images_per_second == pytest.approx((64 / 2 + 64 / 4 + 64 / 8) / 3)
    assert a.training_flops == 5000 * 64
    assert a.confusion == [[9, 3], [9, 3]] and a.per_class == {"disk": 0.75, "ring": 0.25}
    # One run: Wilson's interval over the test images, as its result has it.
    assert (b.n, b.accuracy_sd, b.accuracy_interval) == (1, None, [0.35, 0.55])
    assert b.interval_covers == "images"
    (difference,) = found.differences
    assert difference.accuracy == pytest.approx(-0.15)
    assert difference.welch is None and difference.mcnemar is None


def test_an_interval_of_accuracies_stays_between_0_and_1(tmp_path: Path) -> None:
    """n 2, s 0.0636: half is 12.706 · 0.0636 / √2 = 0.57, more than either accuracy."""
    low_runs = [make_run(tmp_path / str(a), accuracy=a) for a in (0.01, 0.1)]
    high_runs = [make_run(tmp_path / str(a), accuracy=a) for a in (0.9, 0.99)]
    low, high = compare([group("low", low_runs), group("high", high_runs)]).models
    assert low.accuracy_interval == [0.0, pytest.approx(0.6268, abs=1e-4)]
    assert high.accuracy_interval == [pytest.approx(0.3732, abs=1e-4), 1.0]


def test_two_single_runs_have_mcnemars_test_and_the_images_of_each(tmp_path: Path) -> None:
    """Only a: place 0; only b: places 4 to 8; p = 2 · (1 + 6) / 64."""
    both = [True, True, True]
    a = make_run(tmp_path / "a", right=[True, *both, False, False, False, False, False, False])
    b = make_run(tmp_path / "b", right=[False, *both, True, True, True, True, True, False])
    (difference,) = compare([group("a", [a]), group("b", [b])]).differences
    assert difference.only_first == [0] and difference.only_second == [4, 5, 6, 7, 8]
    assert difference.mcnemar is not None and difference.mcnemar.p == pytest.approx(14 / 64)
    assert difference.accuracy == pytest.approx(0.4)
    low, high = difference.bootstrap.interval
    assert low < 0.4 < high
    assert difference.interval == [low, high]


def test_images_that_only_one_gets_are_counted_over_pairs_of_runs(tmp_path: Path) -> None:
    """By hand, image by image, a's runs right of 3 and b's of 2: 2 and 0, 2 and 1, 0 and 2."""
    answers = ([True, True, False], [True, False, False], [False, True, False])
    a = [make_run(tmp_path / f"a{i}", right=right) for i, right in enumerate(answers)]
    b = [make_run(tmp_path / f"b{i}", right=[False, bool(i), True]) for i in range(2)]
    (difference,) = compare([group("a", a), group("b", b)]).differences
    assert difference.only_first_count == pytest.approx(2 / 3 + 2 / 3 / 2)
    assert difference.only_second_count == pytest.approx(1 / 3 / 2 + 1)
    # So they say the same as the difference of accuracies, whatever the numbers of runs.
    apart = difference.only_second_count - difference.only_first_count
    assert apart / 3 == pytest.approx(difference.accuracy)
    assert (difference.only_first, difference.only_second) == ([], [2])  # all runs, none of them
    assert difference.mcnemar is None and difference.welch is not None
    assert difference.interval == difference.welch.interval


TWINS = "not twins: their graphs differ"
SEED = "the interval of a model with one run covers the test images only"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("{name: SimpleModel}", "{name: SimpleModel, layer: conv}", []),
        ("{name: SimpleModel}", "{name: SpatialDenseNet}", [TWINS]),
        ("{name: SimpleModel}", "{name: SimpleModel, channels: [7]}", [TWINS]),
        ("{name: SimpleModel}", "{name: SimpleModel, dropout: 0.5}", [TWINS]),
        # Fully connected after one step: no twin of what is local or shared.
        ("{name: SimpleModel}", "{name: SimpleModel, storage: dense}", [TWINS]),
        ("{name: SimpleModel, layer: conv}", "{name: SimpleModel, storage: dense}", [TWINS]),
        (
            "{name: SimpleModel}",
            "{name: SimpleModel, layer: conv, init: notebook}",
            ["not the same model.init: receptive_field, notebook"],
        ),
        (
            "{name: SimpleModel}\ntrain: {epochs: 3, seed: 1}",
            "{name: SimpleModel, layer: conv}\ntrain: {epochs: 2}\noptimizer: {clip_norm: 1.0}",
            ["not the same optimizer.clip_norm: none, 1.0", "not the same train.epochs: 3, 2"],
        ),
    ],
)
def test_what_differs_besides_sharing_is_said(
    tmp_path: Path, one: str, other: str, expected: list[str]
) -> None:
    run = make_run(tmp_path / "a")
    remarks = compare([group("a", [run], one), group("b", [run], other)]).remarks
    assert sorted(remarks[:-1]) == sorted(expected) and remarks[-1].startswith(SEED)


def test_with_several_seeds_it_says_which_interval_covers_them(tmp_path: Path) -> None:
    found = [make_run(tmp_path / str(a), accuracy=a) for a in (0.5, 0.6)]
    twin = "{name: SimpleModel, layer: conv}"
    (remark,) = compare([group("a", found), group("b", found, twin)]).remarks
    assert "Welch's interval covers the seeds" in remark
    mixed = compare([group("a", found), group("b", found[:1], twin)]).remarks
    assert [remark.partition(":")[0] for remark in mixed] == [SEED]  # no Welch there


def test_runs_that_do_not_differ_have_no_interval(tmp_path: Path) -> None:
    same = [make_run(tmp_path / f"a{i}", accuracy=0.5) for i in range(3)]
    found = compare([group("a", same), group("b", same, "{name: SimpleModel, layer: conv}")])
    assert found.models[0].accuracy_interval is None
    assert found.remarks == [
        "all runs of a model have the same accuracy: that says nothing about other seeds"
    ]


def test_of_several_models_it_says_which_are_no_twins(tmp_path: Path) -> None:
    run = [make_run(tmp_path / "a")]
    twin, other = "{name: SimpleModel, layer: conv}", "{name: SpatialDenseNet}"
    remarks = compare([group("a", run), group("b", run, twin), group("c", run, other)]).remarks
    assert remarks[0] == "a and c: not twins: their graphs differ"
    assert [r for r in remarks if "twins" in r] == remarks[:1]
    assert (
        "what is more than chance is said by p-values of McNemar's test, corrected for 2 "
        "comparisons (Holm 1979); intervals are not corrected"
    ) in remarks


def test_of_several_models_the_tests_are_corrected_for_their_number(tmp_path: Path) -> None:
    """Only a gets 6 of b's, 10 of c's: 2 / 2^6, 2 / 2^10. One alone would be beyond chance."""
    a, b, c, d = (
        group(name, [make_run(tmp_path / name, right=[place >= wrong for place in range(50)])])
        for name, wrong in (("a", 0), ("b", 6), ("c", 10), ("d", 6))
    )
    assert compare([a, b]).differences[0].p_corrected is None
    assert compare([a, b]).differences[0].is_worse
    found = compare([a, b, c, d])
    corrected = [each.p_corrected for each in found.differences]
    assert corrected == pytest.approx([2 * 2 / 64, 3 * 2 / 1024, 2 * 2 / 64])
    assert [each.is_worse for each in found.differences] == [False, True, False]
    assert "p = 0.0312, corrected p = 0.0625 (McNemar); of other" in found.conclusion[0]
    assert "which may be the chance of these test images" in found.conclusion[0]
    assert dict(rows(found))["  p, corrected (Holm)"][1:] == [
        "p = 0.0625",
        "p = 0.0059",
        "p = 0.0625",
    ]


def test_what_no_test_covers_counts_among_the_comparisons_and_is_said(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(a), accuracy=a) for a in (0.5, 0.51, 0.8, 0.81)]
    found = compare([group("a", runs[:2]), group("b", runs[2:]), group("c", runs[2:3])])
    welch, none = found.differences
    assert welch.p is not None and welch.p_corrected == pytest.approx(2 * welch.p)
    assert (none.p, none.p_corrected, none.is_beyond_chance) == (None, None, True)
    assert (
        "what is more than chance is said by p-values of Welch's test, corrected for 2 comparisons "
        "(Holm 1979); by the bootstrap's interval for c, which no test covers; intervals are not "
        "corrected"
    ) in found.remarks


def test_times_that_vary_are_remarked(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(s), accuracy=a, seconds=s) for a, s in ((0.5, 2.0), (0.6, 2.3))]
    twin = "{name: SimpleModel, layer: conv}"
    found = compare([group("a", runs), group("b", runs, twin)])
    assert found.models[0].seconds_each == [2.0, 2.3]
    assert found.remarks[-1] == "training times of one model's runs differ by more than 10 %"


def test_other_machines_are_remarked(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", environment={"device": "A", "precision": "bfloat16"})
    other = make_run(tmp_path / "other", environment={"device": "B"})
    remarks = compare([group("a", [one]), group("b", [other])]).remarks
    assert remarks[-2:] == [
        "not the same device: A (a); B (b)",
        "not the same precision: bfloat16 (a); float32 (b)",
    ]


def test_other_versions_are_remarked_and_who_has_which(tmp_path: Path) -> None:
    """A model whose runs are alike by its name, other runs by theirs; a resumed run has several."""
    commit = {"commit": "0123456789abcdef", "clean": True}
    old: dict[str, Any] = {"git": commit}
    new: dict[str, Any] = {"sfl": "0.2.0", "packages": {"torch": "3.0"}, "threads": 4}
    new["git"] = commit | {"clean": False}
    alike = [make_run(tmp_path / f"a{i}", accuracy=i / 10, environment=old) for i in (5, 6)]
    mixed = [
        make_run(tmp_path / f"b{i}", accuracy=i / 10, environment=environment)
        for i, environment in ((5, new), (6, old), (7, old | {"resumed": [ENVIRONMENT | new]}))
    ]
    remarks = compare([group("a", alike), group("b", mixed)]).remarks
    assert [line for line in remarks if line.startswith("not the same ")] == [
        "not the same version of sfl: 0.1.0 (a, b6, b7); 0.2.0 (b5, b7)",
        "not the same commit of sfl: 0123456789 (a, b6, b7); 0123456789, changed (b5, b7)",
        "not the same version of torch: 2.14.1 (a, b6, b7); 3.0 (b5, b7)",
        "not the same threads: 2 (a, b6, b7); 4 (b5, b7)",
    ]
    many = [make_run(tmp_path / f"c{i}", accuracy=i / 10, environment=old) for i in range(6)]
    many.append(make_run(tmp_path / "c6", environment=new))
    remarks = compare([group("c", many), group("d", mixed[:1])]).remarks
    assert "not the same threads: 2 (c0, c1, c2, c3 and 2 more); 4 (c6, d)" in remarks
    (tmp_path / "a5" / "environment.json").unlink()  # of the first versions
    remarks = compare([group("a", alike[:1]), group("b", mixed[:1])]).remarks
    assert "not the same threads: unknown (a); 4 (b)" in remarks


def test_the_share_of_the_most_frequent_class_is_named_where_classes_are_unequal(
    tmp_path: Path,
) -> None:
    for first, share, said in ((2, 0.5, None), (3, 0.6, ["60.00 %", "60.00 %"])):
        right, confusion = [True] * (first + 2), [[first, 0], [0, 2]]
        paths = [make_run(tmp_path / f"{n}{first}", right=right, confusion=confusion) for n in "ab"]
        found = compare([group("a", paths[:1]), group("b", paths[1:])])
        assert found.data.majority_share == share
        assert dict(rows(found)).get("always the most frequent class") == said


CONV, DENSE = "{name: SimpleModel, layer: conv}", "{name: SimpleModel, storage: dense}"
ON_CPU = {"local_precision": "float32"}


@pytest.mark.parametrize(
    ("precision", "also", "other", "said"),
    [
        ("bfloat16", ON_CPU, CONV, True),
        ("bfloat16", {"compiled_kernel": True}, CONV, True),  # of version 0.1.0
        ("bfloat16", {"engine": "compiled"}, CONV, True),  # of version 0.2.0
        ("bfloat16", {"engine": "reference"}, CONV, False),  # the same
        ("bfloat16", ON_CPU, DENSE, False),  # dense storage follows autocast, too
        ("bfloat16", ON_CPU, "{name: SpatialDenseNet}", False),  # both local
        ("bfloat16", {"local_precision": "bfloat16"}, CONV, False),  # on a GPU
        ("bfloat16", {}, CONV, False),  # of a version that didn't say
        ("float32", ON_CPU, CONV, False),
    ],
)
def test_local_layers_in_float32_beside_convolutions_in_bfloat16_are_remarked(
    tmp_path: Path, precision: str, also: dict[str, object], other: str, said: bool
) -> None:
    environment = {"precision": precision, **also}
    local, conv = (make_run(tmp_path / name, environment=environment) for name in ("a", "b"))
    for models in (
        [group("mine", [local]), group("its", [conv], other)],
        [group("its", [conv], other), group("mine", [local])],
    ):
        remarks = [line for line in compare(models).remarks if "numerics" in line]
        assert remarks == said * [
            "not the same numerics: with precision bfloat16 the local layers of mine computed in "
            "float32, the convolutions of its in bfloat16"
        ]


# --- in plain words


def conclusions(tmp_path: Path, *accuracies: list[float]) -> list[str]:
    groups = []
    for place, each in enumerate(accuracies):
        name = "abc"[place]
        paths = [
            make_run(
                tmp_path / f"{name}{i}", accuracy=a, weights=1000 * 10**place,
                seconds=2.0 * (place + 1), training_flops_per_image=5000,
            )
            for i, a in enumerate(each)
        ]  # fmt: skip
        groups.append(group(name, paths))
    return compare(groups).conclusion


def test_one_seed_each(tmp_path: Path) -> None:
    """Only the first gets 30 of 100 images: McNemar 2 / 2^30."""
    (said,) = conclusions(tmp_path, [0.8], [0.5])
    assert said.startswith(
        "a is ahead of b by 30.00 points (80.00 % against 50.00 %), more than the chance of these "
        "test images: 95 % interval of the lead +21.00 to +39.00, p < 0.0001 (McNemar); of other "
        "seeds this says nothing (one seed each). "
    )
    assert said.endswith(
        "a holds 1.0 k weights against 10.0 k, took 0.50 times the time to train and the same "
        "FLOPs."
    )


def test_networks_as_large_as_one_another() -> None:
    values: Any = {"name": "a", "weights": 1000, "seconds": 1.0, "training_flops": 1.0}
    first = Model.model_construct(**values)
    second = first.model_copy(update={"name": "b", "weights": 1001})
    said = "a holds 1.0 k weights, as the other, took the same time to train and the same FLOPs"
    assert sentences._cost(first, second) == said


def test_several_seeds_sure_and_not_sure(tmp_path: Path) -> None:
    sure, unsure = conclusions(tmp_path, [0.5, 0.51], [0.8, 0.81], [0.49, 0.56])
    assert sure.startswith(
        "b is ahead of a by 30.00 points (80.50 % against 50.50 %), more than chance: 95 % "
        "interval of the lead +26.96 to +33.04, p = 0.0006, corrected p = 0.0011 (Welch, 2 and 2 "
        "seeds). "
    )
    assert unsure.startswith("c is ahead of a by 2.00 points (52.50 % against 50.50 %), which may ")


def test_a_few_images_are_not_beyond_chance(tmp_path: Path) -> None:
    """Only a gets 5, none only b: 2 / 32; though no bootstrap draw has b ahead. Six are: 2 / 64."""
    for count, beyond in ((5, False), (6, True)):
        right = [place >= count for place in range(50)]
        a = group("a", [make_run(tmp_path / f"a{count}", right=[True] * 50)])
        b = group("b", [make_run(tmp_path / f"b{count}", right=right)])
        found = compare([a, b])
        assert found.differences[0].bootstrap.interval[1] < 0
        assert found.differences[0].is_worse is beyond
        assert (", which may be the chance of these test images: " in found.conclusion[0]) != beyond


def test_level(tmp_path: Path) -> None:
    (said,) = conclusions(tmp_path, [0.5], [0.5])
    assert said.startswith(
        "a and b are level at 50.00 %: right on the same images, but a lead of up to 2.95 points "
        "can't be excluded (95 %), p = 1.0000 (McNemar)"
    )


def test_equal_answers_to_few_images_leave_much_open(tmp_path: Path) -> None:
    """Nothing is seen on 8 images: 1 − 0.05^(1/8) = 31.23 % may hide."""
    a, b = (make_run(tmp_path / name, right=[True] * 8) for name in "ab")
    found = compare([group("a", [a]), group("b", [b])])
    assert found.differences[0].bootstrap.interval == pytest.approx([-0.3123, 0.3123], abs=1e-4)
    assert dict(rows(found))["  95 %, images (bootstrap)"][1] == "−31.23 to +31.23"
    assert "a lead of up to 31.23 points can't be excluded" in found.conclusion[0]
    assert not found.differences[0].is_beyond_chance


def test_one_run_each_has_one_row_for_each_number_of_images(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"a{n}", accuracy=n / 10) for n in (5, 6)]
    few, more = (rows(compare([group("a", runs[:n]), group("b", runs[1:])])) for n in (1, 2))
    shown, also = ([label for label, _ in each if "right" in label or "all" in label]
                   for each in (few, more))  # fmt: skip
    assert shown == [
        "images that only this model gets right", "images that only the first gets right",
    ]  # fmt: skip
    assert "  in all its runs" in also and "  in all runs of the first" in also


@pytest.mark.parametrize(
    ("flops", "said"),
    [(5000, "the same FLOPs"), (4000, "0.80 times the FLOPs"), (12, "1/417 of the FLOPs"),
     (400, "1/12 of the FLOPs"), (60_000_000, "12,000 times the FLOPs")],
)  # fmt: skip
def test_costs_that_are_far_apart(tmp_path: Path, flops: int, said: str) -> None:
    cheap = make_run(tmp_path / "a", accuracy=0.8, training_flops_per_image=flops)
    other = make_run(tmp_path / "b", accuracy=0.5)
    (line,) = compare([group("a", [cheap]), group("b", [other])]).conclusion
    assert line.endswith(f"took the same time to train and {said}.")


# --- a target


def test_a_target_is_looked_for_on_validation_images_first(tmp_path: Path) -> None:
    a = log(
        make_run(tmp_path / "a"),
        {"validation_accuracy": 0.4, "test_accuracy": 0.9},
        {"validation_accuracy": 0.5, "test_accuracy": 0.9},
        {"validation_accuracy": 0.6, "test_accuracy": 0.9},
    )
    b = log(make_run(tmp_path / "b"), {"validation_accuracy": 0.4}, {"validation_accuracy": 0.45})
    one, other = (m.target for m in compare([group("a", [a]), group("b", [b])], 0.5).models)
    assert one is not None and other is not None
    assert (one.measured_on, one.reached, one.epoch, one.seconds) == ("validation", 1, 2.0, 4.0)
    assert one.training_flops == 5000 * 64 * 2
    assert (other.reached, other.epoch, other.seconds) == (0, None, None)


def test_else_on_logged_test_accuracy_mean_over_the_runs_that_reached_it(tmp_path: Path) -> None:
    logged = ([0.4, 0.5, 0.6], [0.5, 0.4, 0.5], [0.1, 0.2, 0.3])
    runs = [
        log(make_run(tmp_path / f"a{i}"), *({"test_accuracy": a} for a in each))
        for i, each in enumerate(logged)
    ]
    target = compare([group("a", runs), group("b", runs[:1])], 0.5).models[0].target
    assert target is not None
    assert (target.measured_on, target.reached, target.epoch) == ("test", 2, 1.5)


def test_images_of_all_epochs_count(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, epochs=3, seconds=6.0) for name in "ab"]
    for model in compare([group(run.name, [run]) for run in runs]).models:
        assert model.images_per_second == 3 * 64 / 6
        assert model.training_flops == 5000 * 3 * 64


def test_a_target_without_anything_logged_is_refused(tmp_path: Path) -> None:
    a = log(make_run(tmp_path / "a"), {"test_accuracy": 0.9})
    b = log(make_run(tmp_path / "b"), {})
    with pytest.raises(UserError) as caught:
        compare([group("a", [a]), group("b", [b])], 0.5)
    assert caught.value.exit_code is Exit.RUN
    assert str(caught.value) == (
        "--target: b logged no accuracy on validation or test images (train with "
        "data.validation=N or train.test_every=1)"
    )


# --- refusals


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("same_group", [True, False])
def test_runs_on_other_images_are_refused(tmp_path: Path, split: str, same_group: bool) -> None:
    data = {"source": "folder", "train": "aa", "test": "bb"}
    one = make_run(tmp_path / "one", data=data)
    two = make_run(tmp_path / "two", data=data | {split: "cc"})
    groups = [[one, two], [one]] if same_group else [[one], [two]]
    with pytest.raises(UserError) as caught:
        compare([group("a", groups[0]), group("b", groups[1])])
    assert caught.value.exit_code is Exit.DATA
    assert str(caught.value) == (
        f"two and one were not made with the same {split} images (compare runs of one data set: "
        "keep others in another folder, with --runs)"
    )


def test_labels_of_other_images_are_refused(tmp_path: Path) -> None:
    import numpy as np

    one, two = (make_run(tmp_path / name, right=[True, False]) for name in ("one", "two"))
    np.save(two / "labels.npy", np.array([1, 0]))
    np.save(two / "predictions.npy", np.array([1, 1]))
    with pytest.raises(UserError, match=r"labels\.npy: damaged"):
        compare([group("a", [one]), group("b", [two])])
