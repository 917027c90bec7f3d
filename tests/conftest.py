import os
import tempfile

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "wlsrl_jax_test_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The workdir of a run that nobody disturbed."""
    from tests.tiny import run

    workdir = tmp_path_factory.mktemp("finished")
    run(workdir, log_example_ids=True, report=True)
    return workdir
