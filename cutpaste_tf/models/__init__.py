"""The networks: backbones, their weights, and the projection head (Section 4).

The functions take a network's name, its size and its weights, and return Keras models from images
to features, from features to logits, and from images to feature maps, whose places on the image
`backbone.places` finds.
"""
