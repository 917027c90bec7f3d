"""What this installation has and lacks, as Markdown to paste into an issue.

wlsrl doctor

Nothing private is in it: the home directory is ``~``, and the names of the user and of the machine
are left out. A part that cannot be told, such as the devices of a broken JAX, is a problem like any
other.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from wlsrl_jax import cli
from wlsrl_jax.files import cache_directory
from wlsrl_jax.runtime.version import VERSION

PROBLEM = "PROBLEM: "
"""How a line begins that tells of one."""
VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "CXX", "GLIBC_TUNABLES", "JAX_ENABLE_X64", "JAX_PLATFORMS",
    "LD_LIBRARY_PATH", "TFDS_DATA_DIR", "WLSRL_TRACEBACK", "XDG_CACHE_HOME", "XLA_FLAGS",
)  # fmt: skip
"""Variables of the environment that are shown where they are set."""
_LEAST_FREE = 1 << 30  # bytes


def private(text: str) -> str:
    """A text without the home directory, names of the user and the machine, and ids of devices."""
    homes = {os.path.expanduser("~"), os.path.realpath(os.path.expanduser("~"))}
    for home in sorted(homes - {"/", "~"}, key=len, reverse=True):
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    names = {os.environ.get(v, "") for v in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")}
    try:
        names.add(getpass.getuser())
    except (KeyError, OSError):  # a number without a name, as in some containers
        pass
    names |= {platform.node(), platform.node().partition(".")[0]}
    for name in sorted(names - {""}, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "...", text)
    return re.sub(r"\b(GPU|MIG)-[0-9a-f-]{8,}", r"\1-...", text)


def versions() -> Iterator[str]:
    """This package, Python, the system and the processor."""
    from wlsrl_jax.runtime.environment import git_commit, processor_facts

    commit = git_commit()
    yield f"wlsrl_jax {VERSION}" + (f", commit {commit}" if commit else "")
    yield f"Python {platform.python_version()}, {private(platform.platform())}"
    known = processor_facts()
    flags = set(known.get("flags", known.get("Features", "")).split())
    vectors = [name for name in ("avx2", "avx512f", "asimd") if name in flags]
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = known.get("model name", platform.machine())
    yield ", ".join([f"{count} cores of {model}", *vectors, *_memory()])


def _memory() -> Iterator[str]:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield f"{total / 2**30:.0f} GiB of memory"


def packages() -> Iterator[str]:
    """What the package needs, and the optional extras, by what is installed."""
    try:
        extras = importlib.metadata.metadata("wlsrl_jax").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        yield f"{PROBLEM}wlsrl_jax is not installed; pip install -e . in its folder"
        return
    for extra in ("", *extras):
        states = [state for needed in _needed("wlsrl_jax", extra) for state in _states(needed)]
        there = ", ".join(text for text, fits in states if fits)
        lacking = ", ".join(text for text, fits in states if not fits)
        if not extra:
            yield there
            if lacking:
                yield f"{PROBLEM}{lacking}"
        else:
            yield f"extra {extra}: " + (f"not complete, {lacking}" if lacking else there)


def _needed(name: str, extra: str) -> Iterator[Requirement]:
    """What a package needs for one of its extras, or "" without any."""
    for requirement in map(Requirement, importlib.metadata.requires(name) or []):
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if always != bool(extra) and (always or marker and marker.evaluate({"extra": extra})):
            yield requirement


def _states(requirement: Requirement) -> Iterator[tuple[str, bool]]:
    """(a package with its version or what is wrong with it, whether it is as needed)."""
    name = requirement.name
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        yield f"{name} is missing", False
        return
    fits = requirement.specifier.contains(version, prereleases=True)
    yield f"{name} {version}" + ("" if fits else f" is not {requirement.specifier}"), fits
    for extra in requirement.extras:  # as in jax[cuda13]
        for needed in _needed(name, extra):
            yield from _states(needed)


def devices() -> Iterator[str]:
    """What JAX runs on, and whether it computes there."""
    import jax
    import jax.numpy as jnp

    from wlsrl_jax.runtime.environment import unused_accelerator

    kinds = [device.device_kind for device in jax.devices()]
    for kind in dict.fromkeys(kinds):
        yield f"{kinds.count(kind)} x {kind} (backend {jax.default_backend()})"
    if unused := unused_accelerator():
        yield f"{PROBLEM}this machine has {unused}, and JAX runs on the CPU"
    driver = Path("/proc/driver/nvidia/version")
    if driver.exists() and (found := re.search(r"Module\s+([\d.]+)", driver.read_text())):
        yield f"NVIDIA driver {found[1]}"
    ones = jnp.ones((64, 64))
    if float(jax.jit(jnp.dot)(ones, ones).sum()) != 64.0**3:
        yield f"{PROBLEM}a matrix product comes out wrong"


def kernels() -> Iterator[str]:
    """Whether the compiled kernels for CPUs are there and answer rightly."""
    from wlsrl_jax.ops.kernels import build

    compiler = build.find_compiler()
    try:
        build.try_library(build.build(Path(cache_directory("kernels"))), compiler or "")
    except RuntimeError as error:
        yield f"{PROBLEM}not usable, so training on a CPU is several times slower: {error}"
    else:
        yield f"compiled with {compiler}, tried: they answer as XLA does"


def folders() -> Iterator[str]:
    """The caches and the prepared data, and how much room there is."""
    from wlsrl_jax.data.prepare.place import resolve_data_dir
    from wlsrl_jax.data.prepared import prepared_names

    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR") or cache_directory("xla")
    places = {"compiled programs": Path(compiled), "kernels": Path(cache_directory("kernels"))}
    for name, folder in places.items():
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        yield f"{name}: {folder}, {size / 2**20:.0f} MiB{_room(folder)}"
    data = resolve_data_dir(None)
    names = ", ".join(prepared_names(None)) or "nothing"
    yield f"prepared data: {data}{_room(data)}; there: {names}"
    for folder in {*places.values(), data}:
        there = _existing(folder)
        if shutil.disk_usage(there).free < _LEAST_FREE:
            yield f"{PROBLEM}the disk of {folder} is almost full"
        if not os.access(there, os.W_OK):
            yield f"{PROBLEM}{folder} cannot be written"


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _room(folder: Path) -> str:
    return f", {shutil.disk_usage(_existing(folder)).free / 2**30:.0f} GiB free"


def variables() -> Iterator[str]:
    """Variables of the environment that change what happens."""
    found = [f"{name}={os.environ[name]}" for name in VARIABLES if os.environ.get(name)]
    yield from found or ["none of " + ", ".join(VARIABLES)]


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "Versions": versions,
    "Environment": variables,  # before something that is imported changes it
    "Packages": packages,
    "Devices": devices,
    "Compiled kernels": kernels,
    "Folders": folders,
}


def examine() -> Iterator[str]:
    """Looks at everything.

    Yields:
      Lines of Markdown.
    """
    count = 0
    yield "## wlsrl doctor"
    for title, part in PARTS.items():
        yield f"\n### {title}\n"
        try:
            for line in part():
                count += line.startswith(PROBLEM)
                yield f"- {private(line)}"
        except Exception as error:  # whatever is broken there, the other parts are told
            count += 1
            reason = (str(error).strip() or "no reason given").splitlines()[0]
            yield f"- {PROBLEM}{type(error).__name__}: {private(reason)}"
    yield f"\n{count or 'No'} problem{'' if count == 1 else 's'} found."


def make_parser() -> cli.Parser:
    """Makes the parser of the command line."""
    return cli.Parser(
        "doctor",
        description="What this installation has and lacks, as Markdown to paste into an issue; "
        "without names of the user, the machine or the home directory.",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Prints what is found; problems are marked, and the exit status is 0."""
    make_parser().parse_args(argv)
    for line in examine():
        print(line, flush=True)
