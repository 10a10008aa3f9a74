"""All drawing: figures, heat maps over images, and TensorBoard's projector.

The functions take arrays and names, and return matplotlib's figures and images, or write files.
"""
