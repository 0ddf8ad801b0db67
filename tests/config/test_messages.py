"""Every mistake in a config is one line: where, which key, what was given, what is allowed."""

import pytest

from sfl.config import load
from sfl.config.messages import did_you_mean
from sfl.config.model import ModelSettings
from sfl.config.schema import TrainSettings
from sfl.config.yamlfile import parse
from sfl.errors import Exit, UserError

MODEL = "model: {name: SimpleModel}\n"
MODELS = "RegularConvNet, SpatialDenseNet, SimpleModel or DeepNet"
TRAIN_KEYS = ", ".join(TrainSettings.model_fields)
MODEL_KEYS = ", ".join(ModelSettings.model_fields)
COUNT_OR_PAIR = "expected a whole number of at least 1, or a pair of them"

MISTAKES = [
    # unknown keys
    (
        MODEL + "trian: {epochs: 3}",
        "c.yaml:2: unknown key trian: did you mean train?; allowed: model, data, optimizer, learn, "
        "train",
    ),
    (
        MODEL + "train: {epohcs: 3}",
        f"c.yaml:2: unknown key train.epohcs: did you mean epochs?; allowed: {TRAIN_KEYS}",
    ),
    (MODEL + "train: {zzz: null}", f"c.yaml:2: unknown key train.zzz; allowed: {TRAIN_KEYS}"),
    (
        MODEL + "train: {batch_size: 3}",
        "c.yaml:2: unknown key train.batch_size: did you mean data.batch_size?; allowed: "
        + TRAIN_KEYS,
    ),
    (
        MODEL + "batchsize: 3",
        "c.yaml:2: unknown key batchsize: did you mean data.batch_size?; allowed: model, data, "
        "optimizer, learn, train",
    ),
    (
        MODEL + "train: {name: adam}",
        "c.yaml:2: unknown key train.name: did you mean model.name or optimizer.name?; allowed: "
        + TRAIN_KEYS,
    ),
    (MODEL + "int: 3", "c.yaml:2: unknown key int; allowed: model, data, optimizer, learn, train"),
    (MODEL + "<<: 3", "c.yaml:2: << does not merge here (use extends: FILE at the top)"),
    # missing ones
    ("train: {epochs: 1}", "c.yaml:1: model is missing"),
    ("model:", "c.yaml:1: model is missing"),
    ("model: {layer: conv}", f"c.yaml:1: model.name is missing; give {MODELS}"),
    # wrong types
    ("model: SimpleModel", 'c.yaml:1: model: expected keys and values, not "SimpleModel"'),
    (MODEL + "data: [1]", "c.yaml:2: data: expected keys and values, not [1]"),
    (MODEL + "train: {epochs: 1.5}", "c.yaml:2: train.epochs: expected a whole number, not 1.5"),
    (MODEL + "train: {epochs: 5.0}", "c.yaml:2: train.epochs: expected a whole number, not 5.0"),
    (MODEL + "train: {epochs: true}", "c.yaml:2: train.epochs: expected a whole number, not true"),
    (MODEL + "train: {epochs: '5'}", 'c.yaml:2: train.epochs: expected a whole number, not "5"'),
    (MODEL + "train: {epochs: no}", 'c.yaml:2: train.epochs: expected a whole number, not "no"'),
    (MODEL + "optimizer: {lr: '1e-3'}", 'c.yaml:2: optimizer.lr: expected a number, not "1e-3"'),
    (
        MODEL + "data: {augment: {flip: no}}",
        'c.yaml:2: data.augment.flip: expected true, false, random or alternate, not "no"',
    ),
    (
        MODEL + "data: {root: 5}",
        "c.yaml:2: data.root: expected text (write it in quotes), not 5",
    ),
    (MODEL + "optimizer: {betas: 0.9}", "c.yaml:2: optimizer.betas: expected a list, not 0.9"),
    (
        MODEL + "optimizer: {betas: [0.9]}",
        "c.yaml:2: optimizer.betas: expected at least 2 entries, not [0.9]",
    ),
    (
        MODEL + "optimizer: {betas: [0.9, 0.9, 0.9]}",
        "c.yaml:2: optimizer.betas: expected at most 2 entries, not [0.9, 0.9, 0.9]",
    ),
    # out of range
    (MODEL + "train: {epochs: 0}", "c.yaml:2: train.epochs: must be at least 1, not 0"),
    (MODEL + "train: {epochs: -1}", "c.yaml:2: train.epochs: must be at least 1, not -1"),
    (
        MODEL + "train: {epochs: .inf}",
        "c.yaml:2: train.epochs: expected a whole number, not Infinity",
    ),
    (MODEL + "optimizer: {lr: 0}", "c.yaml:2: optimizer.lr: must be above 0, not 0"),
    (MODEL + "optimizer: {lr: -1e-3}", "c.yaml:2: optimizer.lr: must be above 0, not -0.001"),
    (MODEL + "optimizer: {lr: .nan}", "c.yaml:2: optimizer.lr: must be a finite number, not NaN"),
    (
        MODEL + "optimizer: {lr: .inf}",
        "c.yaml:2: optimizer.lr: must be a finite number, not Infinity",
    ),
    (
        MODEL + "optimizer: {lr: 1e999}",
        "c.yaml:2: optimizer.lr: must be a finite number, not Infinity",
    ),
    (
        MODEL + "optimizer:\n  betas:\n  - 0.9\n  - 1.0",
        "c.yaml:5: optimizer.betas[1]: must be below 1, not 1.0",
    ),
    (
        MODEL + "data: {shapes: {jitter: 17}}",
        "c.yaml:2: data.shapes.jitter: must be at most 16, not 17",
    ),
    (
        MODEL + "train: {seed: 9223372036854775808}",
        "c.yaml:2: train.seed: must be below 9223372036854775808, not 9223372036854775808",
    ),
    # none of a few
    (
        "model: {name: ResNet}",
        f'c.yaml:1: model.name: expected {MODELS}, not "ResNet": did you mean DeepNet?',
    ),
    (
        "model: {name: simplemodel}",
        f'c.yaml:1: model.name: expected {MODELS}, not "simplemodel": did you mean SimpleModel?',
    ),
    ("model: {name: 3}", f"c.yaml:1: model.name: expected {MODELS}, not 3"),
    (
        "model: {name: SimpleModel, layer: konv}",
        'c.yaml:1: model.layer: expected conv or spatial, not "konv": did you mean conv?',
    ),
    (
        MODEL + "train: {device: gpu}",
        "c.yaml:2: train.device: expected auto (CUDA if there is one, else MPS, else CPU), cpu, "
        'cuda[:N] or mps, not "gpu"',
    ),
    # a number or a pair: one line, not one for each form
    (
        "model: {name: SimpleModel, kernel_sizes: [0]}",
        f"c.yaml:1: model.kernel_sizes[0]: {COUNT_OR_PAIR}, not 0",
    ),
    (
        "model: {name: SimpleModel, kernel_sizes: [[3, 0]]}",
        f"c.yaml:1: model.kernel_sizes[0]: {COUNT_OR_PAIR}, not [3, 0]",
    ),
    (
        "model: {name: SimpleModel, kernel_sizes: [[3]]}",
        f"c.yaml:1: model.kernel_sizes[0]: {COUNT_OR_PAIR}, not [3]",
    ),
    (
        "model: {name: SimpleModel, kernel_sizes: [true]}",
        f"c.yaml:1: model.kernel_sizes[0]: {COUNT_OR_PAIR}, not true",
    ),
    # settings that don't go together
    (
        "model:\n  name: SimpleModel\n  layer: conv\n  storage: local",
        "c.yaml:4: model.storage: local is only for layer: spatial, not for conv; remove it, or "
        "use --set model.storage=null",
    ),
    (
        MODEL + "data: {normalize: {mean: [0.5]}}",
        "c.yaml:2: data.normalize: mean has 1 values, std 3; give one per channel",
    ),
    (
        MODEL + "optimizer: {momentum: 0.9}",
        "c.yaml:2: optimizer.momentum: only for sgd and muon; adam has betas",
    ),
    (
        MODEL + "optimizer: {name: sgd, betas: [0.8, 0.9]}",
        "c.yaml:2: optimizer.betas: not for sgd, which has momentum",
    ),
    (
        MODEL + "train: {warmup: 9}",
        "c.yaml:2: train.warmup: 9 epochs, but train.epochs is 5; lower it, too",
    ),
    (
        MODEL + "train: {schedule: onecycle, warmup: 1}",
        "c.yaml:2: train.warmup: only for schedule constant and cosine; onecycle has its own",
    ),
    (
        MODEL + "learn:\n  sleep: {every: 0,\n    strength: 0.5}",
        "c.yaml:4: learn.sleep.strength: needs learn.sleep.every, without which nothing sleeps",
    ),
    (
        MODEL + "learn: {sleep: {kernels: k2}}",
        "c.yaml:2: learn.sleep.kernels: needs learn.sleep.every, without which nothing sleeps",
    ),
    # a deeper network and a longer training
    (
        MODEL + "optimizer: {name: adamw, nesterov: true}",
        "c.yaml:2: optimizer.nesterov: only for sgd with a momentum",
    ),
    (
        MODEL + "optimizer: {name: sgd, nesterov: true}",
        "c.yaml:2: optimizer.nesterov: only for sgd with a momentum",
    ),
    (
        MODEL + "optimizer: {decay: norms}",
        'c.yaml:2: optimizer.decay: expected all or weights, not "norms"',
    ),
    (
        MODEL + "train: {average: {decay: 1.0}}",
        "c.yaml:2: train.average.decay: must be below 1, not 1.0",
    ),
    (
        MODEL + "train: {teacher_share: 0.5}",
        "c.yaml:2: train.teacher_share: needs train.teacher, without which nothing is taught",
    ),
    (
        MODEL + "train: {teacher: conv, teacher_temperature: 0}",
        "c.yaml:2: train.teacher_temperature: must be above 0, not 0",
    ),
    (
        MODEL + "train: {teacher: conv}\nlearn: {route: local}",
        "c.yaml:2: train.teacher: not with learn.route: local, whose losses know labels alone",
    ),
    (
        "model: {name: SimpleModel,\n  strides: [2]}",
        "c.yaml:2: model.strides: only for DeepNet, not for SimpleModel",
    ),
    (
        "model: {name: DeepNet, layer: conv,\n  same_start: true}",
        "c.yaml:2: model.same_start: only for layer: spatial; all positions of a conv layer have "
        "one kernel",
    ),
    (
        "model: {name: DeepNet, storage: dense}\noptimizer: {name: muon}",
        "c.yaml:2: optimizer.name: muon: only for model.storage: local; dense weights are no "
        "matrices",
    ),
    # settings of different sections
    (
        MODEL + "learn: {rule: kp}\noptimizer:\n  weight_decay: 0.1",
        "c.yaml:4: optimizer.weight_decay: with learn.rule: kp, adam would let the forward and the "
        "feedback weights decay differently; use adamw, sgd or muon",
    ),
]


def mistakes(text: str) -> str:
    with pytest.raises(UserError) as caught:
        load._validated(parse(text, "c.yaml"))
    assert caught.value.exit_code is Exit.USAGE
    return str(caught.value)


@pytest.mark.parametrize(("text", "line"), MISTAKES, ids=[line for _, line in MISTAKES])
def test_a_mistake_is_one_line(text: str, line: str) -> None:
    assert mistakes(text) == line


def test_a_clash_between_sections_names_the_option_that_made_it() -> None:
    tree = parse(MODEL + "learn: {rule: kp}", "c.yaml")
    with pytest.raises(UserError, match=r"^--set optimizer.weight_decay=0.1: optimizer.weight_dec"):
        load._validated(load.apply_overrides(tree, ["optimizer.weight_decay=0.1"]))


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = "optimizer: {lr: -1}\ntrain:\n  epochs: 0\n  sede: 3\nmodel: {nmae: SimpleModel}\n"
    assert mistakes(text).split("\n") == [
        "c.yaml:1: optimizer.lr: must be above 0, not -1",
        "c.yaml:3: train.epochs: must be at least 1, not 0",
        f"c.yaml:4: unknown key train.sede: did you mean seed?; allowed: {TRAIN_KEYS}",
        f"c.yaml:5: model.name is missing; give {MODELS}",
        f"c.yaml:5: unknown key model.nmae: did you mean name?; allowed: {MODEL_KEYS}",
    ]


def test_a_long_value_is_cut_and_stays_on_one_line() -> None:
    line = mistakes(MODEL + f'train: {{device: "a\\n{"x" * 500}"}}')
    assert "\n" not in line and line.endswith("xxx…") and len(line) < 250


@pytest.mark.parametrize(
    ("word", "question"),
    [("epohcs", ": did you mean Epochs?"), ("EPOCHS", ": did you mean Epochs?"), ("batch", "")],
)
def test_did_you_mean(word: str, question: str) -> None:
    assert did_you_mean(word, ["Epochs", "seed"]) == question
