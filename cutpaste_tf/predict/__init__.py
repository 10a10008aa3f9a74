"""Scores new images: with a finished run, or with an ONNX file that was exported from one.

Takes images as files, as folders, or as they arrive in a folder. Writes tables with a row for each
image and, with --maps, overlays and maps. Only `model.py` imports TensorFlow.
"""
