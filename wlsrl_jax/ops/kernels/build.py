"""Compiled kernels for CPUs, built with the machine's C++ compiler when they are first needed.

XLA's own CPU convolutions and reductions run far below the rate of its matrix products;
``cpu.cc`` does them at about that rate. It is compiled for the processor at hand (seconds,
once) and kept in the user's cache directory. Without a compiler everything still works,
slower, and a warning says so.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
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
_NATIVE = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"


def _compiler() -> str | None:
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
    compiler = _compiler()
    if compiler is None:
        raise RuntimeError("no C++ compiler was found (CXX, g++, clang++ or c++)")
    include = jax.ffi.include_dir()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
    parts = (*(p.read_text() for p in _PARTS), *_FLAGS, version, _processor(), jax.__version__)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    library = directory / f"cpu-{digest}.so"
    if library.exists():
        return library
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Built under a name of its own and moved: whole or absent, whoever else builds it.
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            made = Path(scratch) / library.name
            command = [compiler, *_FLAGS, _NATIVE, f"-I{include}", str(_SOURCE), "-o"]
            done = subprocess.run([*command, str(made)], capture_output=True, text=True)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["no message"]
                raise RuntimeError(
                    f"{compiler}: {next((x for x in lines if 'error' in x), lines[-1])}"
                )
            os.replace(made, library)
    except OSError as error:
        raise RuntimeError(f"{directory}: {error.strerror}") from None
    return library


def load() -> bool:
    """Builds the kernels if need be and makes them known to XLA.

    Returns:
      Whether they can be used; if not, a warning has said why.
    """
    with _lock:
        return _load()


def load_in_background() -> None:
    """Starts ``load`` beside whatever the program does next."""
    threading.Thread(target=load, daemon=True).start()


@functools.cache
def _load() -> bool:
    try:
        library: Any = ctypes.cdll.LoadLibrary(str(build(Path(cache_directory("kernels")))))
    except (RuntimeError, OSError) as error:
        log.warning("CPU kernels cannot be compiled, training is several times slower: %s", error)
        return False
    for name in re.findall(r"^HANDLER\((\w+)", _SOURCE.read_text(), re.M):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    return True
