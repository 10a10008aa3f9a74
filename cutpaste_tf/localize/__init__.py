"""Localisation: anomaly maps from patches or from gradients (Sections 2.4 and 4.2)."""
