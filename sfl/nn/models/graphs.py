"""The graph of each network as plain values: the defaults of its settings.

Of three networks the notebook's own, of DeepNet D-LOCAL's (Neyshabur 2020) with a = 15.

Imports no torch: `sfl.config` reads these too, so that a resolved config says all it means.
"""

from typing import Any

GRAPHS: dict[str, dict[str, Any]] = {
    "RegularConvNet": {
        "layer": "conv",
        "channels": [32, 64, 128, 128, 256, 256],
        "kernel_sizes": [3, 3, 3, 3, 3, 3],
        "hidden_sizes": [1024, 512],
        "dropout": 0.1,
        "dropout2d": 0.05,
        "norm": "channel",
    },
    "SpatialDenseNet": {
        "layer": "spatial",
        "channels": [10, 20, 32, 64, 128, 256],
        "kernel_sizes": [3, 3, 3, 3, 2, 2],
        "hidden_sizes": [512],
        "dropout": 0.1,
        "dropout2d": 0.05,
        "norm": "channel",
    },
    "SimpleModel": {
        "layer": "spatial",
        "channels": [5],
        "kernel_sizes": [3],
        "hidden_sizes": [],
        "dropout": 0.0,
        "dropout2d": 0.0,
        "norm": "none",
    },
    "DeepNet": {
        "layer": "spatial",
        "channels": [15, 30, 30, 60, 60, 120, 120, 240],
        "strides": [1, 2, 1, 2, 1, 2, 1, 2],
        "kernel_sizes": [3, 3, 3, 3, 3, 3, 3, 3],
        "pool": "stride",
        "shortcut": "none",
        "hidden_sizes": [960],
        "dropout": 0.0,
        "dropout2d": 0.0,
        "norm": "channel",
    },
}
