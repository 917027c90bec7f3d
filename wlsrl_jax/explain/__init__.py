"""What a prediction rests on: maps over the image, and measurements of how far to trust them."""
