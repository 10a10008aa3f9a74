"""Batched, in-graph image augmentation: pure functions of images and a seed."""
