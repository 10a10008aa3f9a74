"""Scores new images: with a finished run, or with an ONNX file that was exported from one.

In go images: files, folders, or a folder in which they arrive. Out come tables with a row for each
image and, with --maps, overlays and maps. Nothing but `model.py` imports TensorFlow.
"""
