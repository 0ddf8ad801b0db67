"""The idea: layers and networks without weight sharing. Needs torch and nothing else of sfl."""

from sfl.nn.conversion import without_sharing
from sfl.nn.functional import dense_conv2d, spatial_conv2d
from sfl.nn.models import MODELS, RegularConvNet, SimpleModel, SpatialDenseNet, build_model
from sfl.nn.spatial import SpatialFeatureLayer

__all__ = [
    "MODELS",
    "RegularConvNet",
    "SimpleModel",
    "SpatialDenseNet",
    "SpatialFeatureLayer",
    "build_model",
    "dense_conv2d",
    "spatial_conv2d",
    "without_sharing",
]
