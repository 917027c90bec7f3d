"""Procedurally rendered images with known labels."""
