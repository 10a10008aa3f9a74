"""Scoring: densities of normal images' features, and how images are scored by them (Section 2.3).

In go a network and prepared images; out come anomaly scores, anomaly maps and what measures them.
"""
