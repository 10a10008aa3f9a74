"""Scoring new images with a finished run: what becomes of files, whatever scores them."""
