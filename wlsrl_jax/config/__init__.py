"""The fields of a config: defaults, meaning, ranges."""
