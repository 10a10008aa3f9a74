"""The networks: backbones, their weights, and the projection head (Section 4).

In go a network's name, its size and its weights; out come Keras models from images to features,
from features to logits, and from images to feature maps with the places of these on the image.
"""
