"""The audit of a config: what its model shares and transports when it learns as the config says."""

import torch
from torch import nn

from sfl.config.schema import Config
from sfl.nn.audit import audit
from sfl.runs.records import Audit
from sfl.training.build import build, build_route


def audit_model(config: Config, in_dimensions: tuple[int, int, int], classes: int) -> Audit:
    """in_dimensions: (C, H, W) of an image. Allocates no weights."""
    with torch.device("meta"):
        model = build(config, in_dimensions, classes)
    learn = config.learn
    route = build_route(config, model, in_dimensions, nn.CrossEntropyLoss())
    audited = audit(
        model,
        in_dimensions,
        rule=learn.rule,
        route=learn.route,
        alignment=learn.alignment,
        sleeps=learn.sleep.every > 0,
        loss=learn.loss if learn.route == "local" else "",
        clips=config.optimizer.clip_norm is not None,
        heads=route.heads(),
    )
    return Audit.check(audited.to_dict(), "audit")
