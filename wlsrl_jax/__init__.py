"""wlsrl_jax: dual-stream retinal disease grading with weighted label smoothing."""

__version__ = "0.1.0"
