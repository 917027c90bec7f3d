"""Data sources, preparation, splits and the input pipeline."""
