"""wlsrl_jax: dual-stream retinal disease grading with weighted label smoothing."""

import sys as _sys

__version__ = "0.1.0"

if _sys.argv[:1] == ["-m"]:  # so it reads while ``python -m`` looks for the module
    from wlsrl_jax.runtime import start as _start

    _start.begin()
