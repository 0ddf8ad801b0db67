"""Images in, batches out: CIFAR-10, folders of images, the embedded `shapes`.

A data set is two splits of uint8 images. They are kept on the device, and batches are augmented
and normalised there. Knows nothing of models, training or settings files.
"""
