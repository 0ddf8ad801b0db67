"""Backward rules: which weights send errors back through a layer, instead of its own.

attach    joins rules to a model's layers.
rules     the rules; a new one is a class there.
drawing   sizes of feedback weights, and how they are drawn.
products  a layer's products with any weights, by kind of layer.
"""
