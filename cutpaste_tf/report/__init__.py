"""Figures of what runs have measured."""
