"""From a source to prepared data."""
