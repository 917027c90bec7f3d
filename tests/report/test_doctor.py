"""What ``wlsrl doctor`` tells of an installation, and what it keeps to itself."""

import os
import platform
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from tests.tiny import ROOT
from wlsrl_jax.ops.kernels.build import find_compiler
from wlsrl_jax.report import doctor


def examined(home, **variables):
    env = {**os.environ, "HOME": str(home), "USER": home.name, "LOGNAME": home.name}
    env = {k: v for k, v in env.items() if k not in ("XDG_CACHE_HOME", "CXX")}
    del env["JAX_COMPILATION_CACHE_DIR"]
    return subprocess.run(
        [sys.executable, "-m", "wlsrl_jax", "doctor"], capture_output=True, text=True, timeout=300,
        cwd=ROOT, env={**env, **variables},
    )  # fmt: skip


def test_it_tells_what_is_wrong_and_nothing_private(tmp_path):
    home = tmp_path / "mmuster"
    manifest = home / "data" / "octdl" / "1.0.0" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    done = examined(
        home, PATH="", JAX_PLATFORMS="nonsense", TFDS_DATA_DIR=str(home / "data"),
        XLA_FLAGS=f"--xla_dump_to={home}/dump --xla_dump_hlo_as_text=/disk/mmuster/x",
        CUDA_VISIBLE_DEVICES="GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
    )  # fmt: skip
    text = done.stdout
    assert done.returncode == 0, done.stderr
    for title in doctor.PARTS:
        assert f"\n### {title}\n" in text
    for told in (
        f"Python {platform.python_version()}", "- prepared data: ~/data", "there: octdl",
        "kernels: ~/.cache/wlsrl_jax/kernels", "--xla_dump_to=~/dump", "=/disk/.../x",
        "JAX_PLATFORMS=nonsense", "CUDA_VISIBLE_DEVICES=GPU-...",
        "PROBLEM: not usable, so training on a CPU is several times slower: no C++ compiler",
    ):  # fmt: skip
        assert told in text, (told, text)
    assert re.search(r"Devices\n\n- PROBLEM: \w+: .*nonsense", text)
    assert f"{text.count('- PROBLEM: ')} problems found." in text
    values = [line for line in text.splitlines() if not line.startswith("- absl")]
    for secret in (str(home), str(tmp_path), "mmuster", platform.node(), "8932f937"):
        assert not re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", "\n".join(values)), secret


def test_names_and_places_of_a_person_are_left_out(monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "link").symlink_to(home)
    monkeypatch.setenv("HOME", str(tmp_path / "link"))
    monkeypatch.setenv("USER", "ann")
    monkeypatch.setattr(platform, "node", lambda: "box7.clinic.org")
    for text, expected in {
        f"{home}/runs/a": "~/runs/a", f"{tmp_path}/link": "~", f"{home}-old/a": f"{home}-old/a",
        "/data/ann/x: ann": "/data/.../x: ...", "/data/annual": "/data/annual",
        "box7 box7.clinic.org box77": "... ... box77",
        "MIG-4cf0a1b2-0000-1111": "MIG-...",
    }.items():  # fmt: skip
        assert doctor.private(text) == expected


def test_devices_compute():
    import jax

    assert f"(backend {jax.default_backend()})" in next(doctor.devices())


@pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
def test_kernels_are_tried():
    (line,) = doctor.kernels()
    assert "they answer as XLA does" in line


def test_a_package_that_is_missing_or_too_old():
    def told(text):
        return list(doctor._states(Requirement(text)))

    ((text, fits),) = told("numpy>=2")
    assert fits and re.fullmatch(r"numpy [\d.]+", text)
    ((text, fits),) = told("numpy>=999")
    assert not fits and text.endswith("is not >=999")
    assert told("no-such-package-here") == [("no-such-package-here is missing", False)]
    names = [text.split()[0] for text, _ in told("jax[cuda13]")]
    assert names[0] == "jax" and "jax-cuda13-plugin" in names


def test_a_part_that_fails_does_not_hide_the_others(monkeypatch):
    def broken():
        yield "half"
        raise RuntimeError("no\nmore")

    monkeypatch.setattr(doctor, "PARTS", {"A": broken, "B": lambda: iter(["whole"])})
    lines = list(doctor.examine())
    assert lines[2:4] == ["- half", "- PROBLEM: RuntimeError: no"]
    assert lines[-2:] == ["- whole", "\n1 problem found."]
