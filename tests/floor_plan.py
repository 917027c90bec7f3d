"""The floor plan: which room may import which, what the code does, and the drawing of it.

``FLOORS`` is the only place where the order is written. ``test_floor_plan.py`` reads every import
of the package and compares; ``docs/ARCHITECTURE.md`` holds the drawing.

    python -m tests.floor_plan           prints the figures, and every import against the order
    python -m tests.floor_plan --write   draws docs/ARCHITECTURE.md anew
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "wlsrl_jax"
DOCUMENT = ROOT / "docs" / "ARCHITECTURE.md"
MOST_FILES = 9
"""Files at the top of the package, at most; what does not fit belongs into a room."""

FLOORS: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        ("tasks", "what is graded: classes, labels, the tasks of a modality"),
        ("files", "whole writes, JSON, paths, and the Mistake that a person is told"),
        ("losses", "the losses of the paper and those that they are compared with"),
        ("html", "pages without a reference to anything outside, and their templates"),
    ),
    (
        ("metrics", "the metrics of the paper, with the reason where one is undefined"),
        ("runtime", "many machines, one run: processes, devices, signals, locks"),
        ("ops", "arithmetic by platform: convolution, normalisation, compiled kernels"),
    ),
    (("cli", "one way to run a command and to end it (with runtime's Ctrl-C), its tables"),),
    (("data/text", "names and tables of labels, as people write them"),),
    (("data/images", "from an image file to pixels, whatever the file"),),
    (
        ("data/phantoms", "drawn images with known labels, for rehearsals"),
        ("data/published", "a file a published data set, and sets of your own"),
    ),
    (("data/audit", "what a source folder holds, and what is wrong with it"),),
    (("data/prepare", "from a source folder to records that are trained on"),),
    (("data", "a data set by name: its splits, their order, augmentation, batches"),),
    (
        ("models", "the networks, and their forward pass"),
        ("config", "every field of a run: its default, its range"),
    ),
    (("runs", "what a run leaves in its folder, and opening it again"),),
    (("evaluate", "predictions of a split, metrics, intervals, calibration"),),
    (
        ("explain", "maps of what a prediction rests on"),
        ("training", "the step, the loop around it, optimiser, log"),
    ),
    (
        ("predict", "probabilities of image files; uncertainty; a page to try it on"),
        ("report", "report.html and the model card"),
    ),
    (
        ("export", "the model as one file that runs without this package"),
        ("main", "from flags to a trained run and its report"),
    ),
    (("__init__", "the Python door: load, train; imports what it needs when it is asked"),),
    (("__main__", "the command wlsrl: its verbs, and what each is for"),),
)
"""Lowest first: (room, what it is for). A room imports from floors below its own, never from its
own floor or above; within a room, files may import each other in any way but a circle."""

HEIGHT = {room: floor for floor, rooms in enumerate(FLOORS, start=1) for room, _ in rooms}


@dataclasses.dataclass(frozen=True)
class Import:
    """One import of a module of the package by another.

    Attributes:
      source: the module that imports, such as "wlsrl_jax.data.dataset".
      target: the module that is imported.
      path: of the source's file.
      line: in it.
      named: whether the code names the target, and not only what its name begins with.
      at_once: whether it is done when the source is imported, and not in a function.
    """

    source: str
    target: str
    path: Path
    line: int
    named: bool = True
    at_once: bool = True


def modules_of(package: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name; a folder's is its ``__init__``."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str, path: Path) -> str:
    """The room that a module is in: a file or folder of the package, or a folder of ``data``."""
    _, *parts = module.split(".")
    is_folder = path.name == "__init__.py"
    if not parts:
        return "__init__"
    if parts[0] == "data" and len(parts) > (1 if is_folder else 2):
        return f"data/{parts[1]}"
    return parts[0]


def _waits(node: ast.AST) -> bool:
    """Whether what stands in a part of the code is not imported when the module is."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test).endswith("TYPE_CHECKING")
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


class _Reader:
    """Reads the imports of one module.

    Args:
      name: of the module.
      path: of its file.
      modules: every module of the package.
    """

    def __init__(self, name: str, path: Path, modules: Mapping[str, Path]) -> None:
        self._name, self._path, self._modules = name, path, modules
        self._root = name.partition(".")[0]
        self.imports: list[Import] = []
        self.unreadable: list[tuple[Path, int]] = []
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        parts = [part for part in ast.walk(tree) if _waits(part)]
        self._later = {id(node) for part in parts for node in ast.walk(part)}
        for node in ast.walk(tree):
            self._at_once = id(node) not in self._later
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self._add(node.lineno, alias.name)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node.module or "", node.level)
                for alias in node.names:
                    self._add(node.lineno, f"{base}.{alias.name}")
            elif isinstance(node, ast.Call):
                self._read_call(node)

    def _read_call(self, node: ast.Call) -> None:
        """Functions that import what a string says."""
        function = node.func
        called = getattr(function, "attr", getattr(function, "id", ""))
        if called not in ("import_module", "__import__", "run_module") or not node.args:
            return
        said = node.args[0]
        if isinstance(said, ast.Constant) and isinstance(said.value, str):
            dots = len(said.value) - len(said.value.lstrip("."))
            self._add(node.lineno, self._absolute(said.value.lstrip("."), dots))
            return
        first = said.values[0] if isinstance(said, ast.JoinedStr) and said.values else None
        if isinstance(first, ast.FormattedValue) and ast.unparse(first.value) == "__name__":
            self._add_all(node.lineno, f"{self._name}.")
        elif isinstance(first, ast.Constant) and "." in first.value:
            self._add_all(node.lineno, first.value)
        else:
            self.unreadable.append((self._path, node.lineno))

    def _absolute(self, dotted: str, level: int) -> str:
        if not level:
            return dotted
        here = self._name.split(".")
        depth = len(here) - level + (self._path.name == "__init__.py")
        return ".".join(filter(None, [*here[:depth], dotted]))

    def _add(self, line: int, dotted: str) -> None:
        """An import of a module, or of a name in it."""
        if dotted.partition(".")[0] != self._root:
            return
        while dotted not in self._modules:
            dotted = dotted.rpartition(".")[0]
        if dotted != self._name:
            found = Import(self._name, dotted, self._path, line, at_once=self._at_once)
            self.imports.append(found)

    def _add_all(self, line: int, begin: str) -> None:
        for target in self._modules:
            if target.startswith(begin) and target != self._name:
                self.imports.append(Import(self._name, target, self._path, line, named=False))


@dataclasses.dataclass(frozen=True)
class House:
    """What the code of a package says.

    Attributes:
      package: its folder.
      rooms: module -> its room.
      imports: every import of a module by another.
      unreadable: (file, line) of calls that import what cannot be read from the code.
    """

    package: Path
    rooms: Mapping[str, str]
    imports: Sequence[Import]
    unreadable: Sequence[tuple[Path, int]]

    def where(self, path: Path, line: int) -> str:
        """A place as "wlsrl_jax/cli.py:20"."""
        return f"{path.relative_to(self.package.parent).as_posix()}:{line}"


def read_house(package: Path = ROOT / PACKAGE) -> House:
    """Reads the imports of a package, wherever in a file they stand.

    Imports in functions and under ``TYPE_CHECKING`` and ``importlib.import_module`` count like all
    others, and a name that a module only hands on counts as its own import. Python imports a
    folder's ``__init__`` with whatever is in the folder; that is not counted here, and ``problems``
    forbids such a file to import at once anything that imports something of ours.

    Args:
      package: its folder.

    Returns:
      What it says.
    """
    modules = modules_of(package)
    readers = [_Reader(name, path, modules) for name, path in modules.items()]
    return House(
        package,
        {name: room_of(name, path) for name, path in modules.items()},
        [found for reader in readers for found in reader.imports],
        [place for reader in readers for place in reader.unreadable],
    )


def problems(house: House) -> list[str]:
    """What breaks the rules, a line each: "FILE:LINE: what, and the rule".

    Args:
      house: the code.

    Returns:
      Lines, sorted; none where every rule is kept.
    """
    found = []
    for name in sorted(set(house.rooms.values()) - HEIGHT.keys()):
        found.append(
            f"{PACKAGE}/{name}: no room of this name; rule: every file and folder at the top of "
            "the package, and every folder of data, has a line in tests/floor_plan.py"
        )
    for name in sorted(HEIGHT.keys() - set(house.rooms.values())):
        found.append(f"{PACKAGE}/{name}: tests/floor_plan.py lists it, and it is not there")
    for i in _against(house):
        mine, theirs = house.rooms[i.source], house.rooms[i.target]
        found.append(
            f"{house.where(i.path, i.line)}: {mine} imports {theirs} ({i.target}); rule: a "
            f"room imports from floors below its own, and {mine} is on floor {HEIGHT[mine]}, "
            f"{theirs} on floor {HEIGHT[theirs]} (tests/floor_plan.py)"
        )
    for circle in _circles(_module_arrows(house)):
        steps = list(zip(circle, [*circle[1:], circle[0]], strict=True))
        shown = " -> ".join(
            next(
                house.where(i.path, i.line)
                for i in house.imports
                if i.named and (i.source, i.target) == step
            )
            for step in steps
        )
        found.append(f"{shown} -> {circle[0]}: a circle; rule: no file imports itself round about")
    for i in house.imports:
        folder = i.path.name == "__init__.py" and i.at_once and _holds_rooms(house, i.source)
        if folder and any(other.source == i.target for other in house.imports):
            found.append(
                f"{house.where(i.path, i.line)}: imports {i.target}; rule: the __init__ of a "
                "folder of rooms is imported with each of them, so it may import at once only what "
                "imports nothing of ours"
            )
    for path, line in house.unreadable:
        found.append(
            f"{house.where(path, line)}: imports a module whose name is computed; rule: the code "
            f'says what it imports, at least how it begins: f"{PACKAGE}.ROOM.{{name}}"'
        )
    return sorted(set(found))


def _holds_rooms(house: House, module: str) -> bool:
    inside = {r for m, r in house.rooms.items() if m.startswith(f"{module}.")}
    return len(inside | {house.rooms[module]}) > 1


def _against(house: House) -> list[Import]:
    """Imports that do not go down a floor."""
    return [
        i
        for i in house.imports
        if (mine := house.rooms[i.source]) != (theirs := house.rooms[i.target])
        and HEIGHT.get(mine, 0) <= HEIGHT.get(theirs, 0)
        and {mine, theirs} <= HEIGHT.keys()
    ]


def _module_arrows(house: House) -> set[tuple[str, str]]:
    return {(i.source, i.target) for i in house.imports if i.named}


def _groups(arrows: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Strongly connected components (Tarjan), those that import the others last."""
    ahead: dict[str, list[str]] = {}
    for a, b in sorted(arrows):
        ahead.setdefault(a, []).append(b)
        ahead.setdefault(b, [])
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    waiting: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        waiting.append(node)
        for other in ahead[node]:
            if other not in order:
                visit(other)
            if other in waiting:
                low[node] = min(low[node], low[other])
        if low[node] == order[node]:
            at = waiting.index(node)
            found.append(waiting[at:])
            del waiting[at:]

    for node in ahead:
        if node not in order:
            visit(node)
    return found


def _circles(arrows: set[tuple[str, str]]) -> list[list[str]]:
    """A shortest circle of each group of nodes that reach each other."""
    circles = []
    for group in _groups(arrows):
        if len(group) == 1:
            continue
        inside = sorted((a, b) for a, b in arrows if a in group and b in group)
        best: list[str] = []
        for start in sorted(group):
            paths, seen = [[start]], {start}
            while paths:
                path = paths.pop(0)
                nexts = [b for a, b in inside if a == path[-1]]
                if start in nexts:
                    best = path if not best or len(path) < len(best) else best
                    break
                paths += [[*path, b] for b in nexts if b not in seen]
                seen |= set(nexts)
        circles.append(best)
    return circles


def figures(house: House, room: Callable[[str], str]) -> str:
    """Counts rooms, floors, arrows, arrows back up and circles.

    Args:
      house: the code.
      room: module -> its room.

    Returns:
      A line. Rooms that reach each other share a floor; a circle is a group of such.
    """
    rooms = {room(name) for name in house.rooms}
    arrows = {
        (room(i.source), room(i.target)) for i in house.imports if room(i.source) != room(i.target)
    }
    groups = _groups(arrows)
    place = {name: k for k, group in enumerate(groups) for name in group}
    floors: list[int] = []
    for k, group in enumerate(groups):
        below = [place[b] for a, b in arrows if a in group]
        floors.append(1 + max((floors[other] for other in below if other != k), default=0))
    back = {(room(i.source), room(i.target)) for i in _against(house)} & arrows
    circles = sum(len(group) > 1 for group in groups)
    return (
        f"{len(rooms)} rooms, {max(floors)} floors, {len(arrows)} arrows, {len(back)} back up, "
        f"{circles} circles"
    )


def drawing() -> str:
    """The drawing of ``FLOORS``, highest floor first."""
    width = max(len(name) for name in HEIGHT)
    lines = []
    for floor in range(len(FLOORS), 0, -1):
        for k, (name, purpose) in enumerate(FLOORS[floor - 1]):
            number = str(floor) if k == 0 else ""
            lines.append(f"{number:>2} | {name:<{width}} | {purpose}")
    return "\n".join(["```text", *lines, "```"])


BEGIN = "<!-- drawn from tests/floor_plan.py by: python -m tests.floor_plan --write -->"
END = "<!-- end of the drawing -->"


def with_drawing(text: str) -> str:
    """The document with its drawing made anew.

    Raises:
      ValueError: if it lacks the marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT.name} must have the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{drawing()}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures and what breaks the rules; returns 1 where something does."""
    parser = argparse.ArgumentParser(prog="python -m tests.floor_plan", description=__doc__)
    parser.add_argument("--package", type=Path, default=ROOT / PACKAGE, help="folder to read")
    parser.add_argument("--write", action="store_true", help="draw the document anew")
    args = parser.parse_args(argv)
    if args.write:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(with_drawing(text), encoding="utf-8")
    house = read_house(args.package.resolve())
    print(f"with the rooms of data: {figures(house, house.rooms.__getitem__)}")
    print(f"data as one room:       {figures(house, lambda m: house.rooms[m].partition('/')[0])}")
    modules = _module_arrows(house)
    circles = sum(len(group) > 1 for group in _groups(modules))
    print(f"files: {len(house.rooms)}, {len(modules)} arrows, {circles} circles")
    found = problems(house)
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
