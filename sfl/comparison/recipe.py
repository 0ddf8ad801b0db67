"""A config's recipe in words: optimizer, schedule, length, images. Parts of `methods`."""

from sfl.config.schema import Config
from sfl.units import listed

NAMES = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "muon": "Muon"}


def optimizer(config: Config) -> str:
    """Its name, momentum, decay and clipping."""
    chosen = config.optimizer
    parts = [NAMES[chosen.name]]
    if chosen.name in ("sgd", "muon"):
        nesterov = "Nesterov " if chosen.nesterov or chosen.name == "muon" else ""
        parts.append(f"{nesterov}momentum {chosen.momentum:g}")
    if chosen.name != "sgd":
        betas = "β = " + ", ".join(f"{beta:g}" for beta in chosen.betas)
        parts.append(betas + " of AdamW for norms and biases" * (chosen.name == "muon"))
    alone = " of the weights alone" if chosen.decay == "weights" else ""
    parts.append(f"weight decay {chosen.weight_decay:g}{alone}")
    if chosen.clip_norm is not None:
        parts.append(f"gradients clipped to a norm of {chosen.clip_norm:g}")
    return ", ".join(parts)


def schedule(config: Config) -> str:
    """How the learning rate changes."""
    train = config.train
    rise = f", after {train.warmup:g} epochs of warm-up" if train.warmup else ""
    return {"constant": "constant", "cosine": "a cosine", "onecycle": "one cycle"}[
        train.schedule
    ] + rise


def length(config: Config) -> str:
    """Epochs, batches and loss."""
    epochs = config.train.epochs
    smooth = config.train.label_smoothing
    taught = config.train.teacher
    teacher = (
        f", {config.train.teacher_share:g} of the loss being the answers of {taught} at "
        f"temperature {config.train.teacher_temperature:g}"
        if taught
        else ""
    )
    return (
        f"{epochs} epoch{'s' * (epochs > 1)} with batches of {config.data.batch_size} images and "
        f"cross entropy{f' with label smoothing {smooth:g}' if smooth else ''}{teacher}"
    )


def subset(config: Config) -> str:
    """Which part of the training images; nothing if all."""
    count = config.data.train_images
    alike = "of each class its share, the same for all seeds, smaller ones within larger ones"
    return f"{count:,}, {alike}" if count else ""


def augmentation(config: Config) -> str:
    """What is done to training images."""
    augment = config.data.augment
    padding = "mirrored " * (augment.crop_fill == "reflect") + "pixels"
    rand = f"RandAugment ({augment.operations} operations, magnitude {augment.magnitude})"
    parts = [
        f"random crops after padding by {augment.crop_padding} {padding}"
        * bool(augment.crop_padding),
        {
            True: "random flips left to right",
            "alternate": "flips left to right in every second epoch",
        }.get(augment.flip, ""),
        {"trivial": "TrivialAugmentWide", "rand": rand}.get(augment.policy, ""),
        f"cutout of {augment.cutout} pixels" * bool(augment.cutout),
        f"mixup (alpha {augment.mixup:g})" * bool(augment.mixup),
        f"CutMix (alpha {augment.cutmix:g}, probability {augment.cutmix_probability:g})"
        * bool(augment.cutmix),
    ]
    return listed([part for part in parts if part] or ["none"])


def pixels(config: Config) -> str:
    """How pixels become numbers."""
    mean, std = (
        ", ".join(f"{value:g}" for value in values)
        for values in (config.data.normalize.mean, config.data.normalize.std)
    )
    size = config.data.resize
    resized = f"resized to {size}×{size}, " if size else ""
    return f"{resized}scaled to [0, 1] and normalised by channel (mean {mean}; deviation {std})"
