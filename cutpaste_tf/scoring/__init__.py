"""Scoring: densities of normal images' features, and how images are scored by them (Section 2.3).

A scorer takes a network and prepared images, and returns anomaly scores and maps. `metrics`
measures these.
"""
