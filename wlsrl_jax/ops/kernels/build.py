"""Compiled kernels for CPUs, built with the machine's C++ compiler when they are first needed.

XLA's own CPU convolutions and reductions run far below the rate of its matrix products;
``cpu.cc`` does them at about that rate. It is compiled for the processor at hand (seconds,
once), tried, and kept in the user's cache directory. Without a compiler everything still works,
slower, and a warning says so.

A library that is cut short ends the process that opens it, and one that is not ours may compute
anything. So the SHA-256 of a library is part of its name, it is compared before the library is
opened, and a name is only given to one that has answered rightly in a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import jax

from wlsrl_jax.files import cache_directory

log = logging.getLogger(__name__)

_lock = threading.Lock()
_SOURCE = Path(__file__).with_name("cpu.cc")
_PARTS = sorted(p for p in _SOURCE.parent.iterdir() if p.suffix in (".cc", ".h"))
_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared", "-w")
_TRIAL_SECONDS = 300
_NATIVE = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"


def find_compiler() -> str | None:
    """Path of a C++ compiler: CXX, g++, clang++ or c++; None without one."""
    candidates = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((path for c in candidates if c and (path := shutil.which(c))), None)


def _processor() -> str:
    """What code for this processor depends on; a home directory may be shared by many."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(
        next(iter(s for s in lines if s.startswith(k)), "") for k in ("flags", "model")
    )


def build(directory: Path) -> Path:
    """Compiles the kernels, unless that was done before.

    Args:
      directory: where the library is kept.

    Returns:
      The shared library.

    Raises:
      RuntimeError: without a compiler, or if it fails, with the reason.
    """
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("no C++ compiler was found (CXX, g++, clang++ or c++)")
    include = jax.ffi.include_dir()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    parts = (*(p.read_text() for p in _PARTS), *_FLAGS, version, _processor(), jax.__version__)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    for library in sorted(directory.glob(f"cpu-{digest}-*.so")):
        if _is_whole(library):
            return library
        _drop(library)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Built under a name of its own and moved: whole or absent, whoever else builds it.
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            made = Path(scratch) / "cpu.so"
            command = [compiler, *_FLAGS, _NATIVE, f"-I{include}", str(_SOURCE), "-o"]
            done = subprocess.run([*command, str(made)], capture_output=True, text=True)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["no message"]
                raise RuntimeError(
                    f"{compiler}: {next((x for x in lines if 'error' in x), lines[-1])}"
                )
            with made.open("rb") as file:
                os.fsync(file.fileno())  # a power loss must not leave the name of an empty file
            library = directory / f"cpu-{digest}-{_sha256(made)}.so"
            try_library(made, compiler)
            os.replace(made, library)
    except OSError as error:
        raise RuntimeError(f"{directory}: {error.strerror}") from None
    return library


def _sha256(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()


def _is_whole(library: Path) -> bool:
    """Whether a library has the content that it was named after."""
    try:
        return library.stem.endswith(f"-{_sha256(library)}")
    except OSError:
        return False


def _drop(library: Path) -> None:
    log.warning("%s is damaged; it is built again", library)
    with contextlib.suppress(OSError):  # of another user, or gone already
        library.unlink()


def try_library(library: Path, compiler: str) -> None:
    """Lets a library compute in a process of its own.

    Raises:
      RuntimeError: if that process dies, or the answers are wrong.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "wlsrl_jax.ops.kernels.trial", str(library.resolve())],
            capture_output=True,
            text=True,
            timeout=_TRIAL_SECONDS,
            cwd=Path(__file__).parents[3],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"what {compiler} made does not answer") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise RuntimeError(f"what {compiler} made does not answer rightly ({lines[-1]})")


def register(library: str) -> None:
    """Opens a library and makes its functions known to XLA.

    Raises:
      OSError: if it cannot be opened.
      AttributeError: if it lacks a function.
    """
    opened: Any = ctypes.cdll.LoadLibrary(library)
    for name in re.findall(r"^HANDLER\((\w+)", _SOURCE.read_text(), re.M):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(opened, name)), platform="cpu")


def load() -> bool:
    """Builds the kernels if need be and makes them known to XLA.

    Returns:
      Whether they can be used; if not, a warning has said why.
    """
    with _lock:
        return _load()


def load_in_background() -> None:
    """Starts ``load`` beside whatever the program does next, where kernels can be of use."""
    if jax.default_backend() == "cpu" and jax.device_count() == 1:
        threading.Thread(target=load, daemon=True).start()


@functools.cache
def _load() -> bool:
    try:
        register(str(build(Path(cache_directory("kernels")))))
    except (RuntimeError, OSError) as error:
        log.warning("CPU kernels cannot be compiled, training is several times slower: %s", error)
        return False
    return True
