"""The idea: layers and networks without weight sharing. Needs torch and nothing else of sfl."""

from sfl.nn.models import MODELS, RegularConvNet, SimpleModel, SpatialDenseNet, build_model
from sfl.nn.spatial import SpatialFeatureLayer, dense_conv2d, spatial_conv2d

__all__ = [
    "MODELS",
    "RegularConvNet",
    "SimpleModel",
    "SpatialDenseNet",
    "SpatialFeatureLayer",
    "build_model",
    "dense_conv2d",
    "spatial_conv2d",
]
