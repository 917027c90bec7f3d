"""What is installed from a wheel is whole: it works where there is no checkout."""

import os
import subprocess
import sys
import zipfile

import pytest
from PIL import Image

from tests.tiny import ROOT
from wlsrl_jax.data.phantoms.source import PhantomSource

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the content of a wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("needs a checkout")
    source = folder / "source"  # so that no build folder comes into the checkout
    for name in tracked.stdout.splitlines():
        if name.startswith("wlsrl_jax/") or name in ("pyproject.toml", "README.md", "LICENSE"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}"]
    done = subprocess.run([*build, str(source)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def python(installed, folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_all_that_is_no_python(installed):
    names = {p.relative_to(installed).as_posix() for p in installed.rglob("*") if p.is_file()}
    for path in (ROOT / "wlsrl_jax").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT).as_posix() in names
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "wlsrl = wlsrl_jax.__main__:main" in entry_points.read_text()


def test_command_and_door_work_without_the_checkout(installed, tmp_path):
    scan = tmp_path / "scan.png"
    Image.fromarray(PhantomSource("oct", "test", 1, 128, 256)[0]["image"][..., 0]).save(scan)
    assert "predict" in python(installed, tmp_path, "-m", "wlsrl_jax", "--help")
    header, row = python(installed, tmp_path, "-m", "wlsrl_jax", "predict", "scan.png").splitlines()
    code = (
        "import wlsrl_jax as wj; print(wj.__file__); "
        "print(*wj.load('pretrained:octdl').predict('scan.png')['TO1'][0])"
    )
    place, numbers = python(installed, tmp_path, "-c", code).splitlines()
    assert place == str(installed / "wlsrl_jax" / "__init__.py")
    expected = [float(v) for c, v in zip(header.split(","), row.split(","), strict=True)
                if c.startswith("TO1/")]  # fmt: skip
    assert [float(v) for v in numbers.split()] == pytest.approx(expected, abs=1e-7)
