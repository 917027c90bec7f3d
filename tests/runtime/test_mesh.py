import os
import subprocess
import sys

import pytest

from tests.tiny import ROOT
from wlsrl_jax.runtime.mesh import check_batch_size, make_mesh

# Runs with eight devices, which this process does not have.
PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from wlsrl_jax.runtime.mesh import batch_sharding, make_mesh, state_sharding, to_global
mesh = make_mesh(4)
assert dict(mesh.shape) == {"data": 2, "fsdp": 4}
shapes = {"big": jax.ShapeDtypeStruct((3, 3, 64, 128), jnp.float32),
          "odd": jax.ShapeDtypeStruct((333, 333), jnp.float32),
          "small": jax.ShapeDtypeStruct((128,), jnp.float32),
          "step": jax.ShapeDtypeStruct((), jnp.int32)}
specs = {k: tuple(s.spec) for k, s in state_sharding(mesh, shapes).items()}
assert specs["big"] == (None, None, None, "fsdp"), specs
assert "fsdp" not in specs["odd"] + specs["small"] + specs["step"], specs
plain = state_sharding(make_mesh(1), shapes)
assert all("fsdp" not in tuple(s.spec) for s in plain.values())
batch = to_global({"x": np.arange(32.0).reshape(16, 2)}, mesh)["x"]
assert batch.sharding == batch_sharding(mesh) and len(batch.addressable_shards) == 8
assert {s.data.shape for s in batch.addressable_shards} == {(2, 2)}
np.testing.assert_array_equal(batch, np.arange(32.0).reshape(16, 2))
for wrong in (0, 3, 16):
    try:
        make_mesh(wrong)
    except ValueError as error:
        assert f"fsdp={wrong}" in str(error)
    else:
        raise AssertionError(wrong)
print("fine")
"""


def test_eight_devices():
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=env, text=True,
                          capture_output=True)  # fmt: skip
    assert done.stdout == "fine\n", done.stderr


def test_batch_sizes_that_do_not_divide():
    mesh = make_mesh()
    check_batch_size("config.batch_size", 7, mesh)
    with pytest.raises(ValueError, match=r"config\.batch_size=0 must be a positive multiple"):
        check_batch_size("config.batch_size", 0, mesh)
