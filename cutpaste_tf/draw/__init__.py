"""All drawing: figures, heat maps over images, and TensorBoard's projector.

Arrays and names go in; matplotlib's figures, images and files come out.
"""
