"""A trained model as a file for others."""
