"""All drawing: figures, and heat maps over images.

The functions take arrays and names, and return matplotlib's figures and images, or write files.
"""
