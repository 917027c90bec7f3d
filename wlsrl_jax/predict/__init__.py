"""Probabilities of image files."""
