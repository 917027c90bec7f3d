"""The pieces of ``experiments/ablation.py``."""
