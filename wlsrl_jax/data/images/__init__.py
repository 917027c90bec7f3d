"""Image files: which there are, decoding, and the way to the model's pixels."""
