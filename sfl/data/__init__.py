"""Images in, batches out: CIFAR-10, folders of images, the embedded `shapes`.

Every data set becomes two splits of uint8 images that live on the device as they are; batches are
cropped, flipped and normalised there. Knows nothing of models, training or settings files.
"""
