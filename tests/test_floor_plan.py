"""The code keeps the floor plan, and the drawing shows it."""

import shutil
import subprocess
import sys

import pytest

from tests import floor_plan
from tests.floor_plan import DOCUMENT, MOST_FILES, PACKAGE, ROOT

NO_JAX = (
    "tasks", "files", "html", "metrics", "__init__", "cli", "data/text", "data/images",
    "data/phantoms", "data/published", "data/audit", "data/prepare",
)  # fmt: skip
"""Rooms that start in an instant, for they load no JAX."""


@pytest.fixture(scope="module")
def house():
    return floor_plan.read_house()


def test_every_import_goes_down_and_none_round(house):
    assert not floor_plan.problems(house), "\n".join(["", *floor_plan.problems(house)])


def test_few_files_lie_at_the_top():
    files = [p.name for p in (ROOT / PACKAGE).iterdir() if p.is_file()]
    assert len(files) <= MOST_FILES, f"{sorted(files)}: move what does not fit into a room"


def test_the_drawing_is_of_the_table():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert floor_plan.with_drawing(text) == text, "run python -m tests.floor_plan --write"


def test_low_rooms_load_no_jax(house):
    names = sorted(m for m, room in house.rooms.items() if room in NO_JAX)
    assert {house.rooms[m] for m in names} == set(NO_JAX)
    code = f"""
import importlib, sys
for name in {names!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # of a package that is optional
        assert not error.name.startswith("wlsrl_jax"), error
    assert "jax" not in sys.modules, f"{{name}} loads JAX"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


BROKEN = {  # file -> (what is added at its end, what the message says of it)
    "files.py": (
        "if TYPE_CHECKING:\n    from wlsrl_jax.runs.open import TrainedRun",
        "files imports runs (wlsrl_jax.runs.open); rule: a room imports from floors below its own",
    ),
    "losses.py": ("from wlsrl_jax import tasks", "losses imports tasks (wlsrl_jax.tasks)"),
    "ops/convolution.py": (
        "def later():\n    import wlsrl_jax.models.by_name as by_name",
        "ops imports models (wlsrl_jax.models.by_name)",
    ),
    "data/text/names.py": (
        "from ..dataset import load_dataset",
        "data/text imports data (wlsrl_jax.data.dataset)",
    ),
    "runtime/lock.py": (
        "import importlib\nimportlib.import_module('wlsrl_jax.cli')",
        "runtime imports cli (wlsrl_jax.cli)",
    ),
    "html/page.py": (
        "import importlib\nimportlib.import_module(f'wlsrl_jax.report.{name}')",
        "html imports report (wlsrl_jax.report.build)",
    ),
    "metrics.py": (
        "from importlib import import_module\nimport_module(name)",
        "imports a module whose name is computed; rule: the code says what it imports",
    ),
    "data/__init__.py": (
        "from wlsrl_jax.data.batches import train_batches",
        "imports wlsrl_jax.data.batches; rule: the __init__ of a folder of rooms",
    ),
    "ops/__init__.py": ("from wlsrl_jax.cli import console", "ops imports cli (wlsrl_jax.cli)"),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A copy of the package with a wrong import at the end of some files; their last lines."""
    package = tmp_path_factory.mktemp("copy") / PACKAGE
    shutil.copytree(ROOT / PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "*.np*"))
    lines = {}
    for name, (added, _) in BROKEN.items():
        text = f"{(package / name).read_text(encoding='utf-8')}\n{added}\n"
        (package / name).write_text(text, encoding="utf-8")
        lines[name] = text.count("\n")
    with (package / "cli.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom wlsrl_jax.hall import lamp\n")
    (package / "hall.py").write_text("from wlsrl_jax import cli\n")
    (package / "report" / "round.py").write_text("from wlsrl_jax.report.about import A\n")
    (package / "report" / "about.py").write_text("\nfrom wlsrl_jax.report import round\n")
    return lines, floor_plan.problems(floor_plan.read_house(package))


@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_import_is_told_with_its_place_and_the_rule(name, broken):
    lines, found = broken
    place = f"{PACKAGE}/{name}:{lines[name]}: "
    (line,) = [text for text in found if text.startswith(place) and BROKEN[name][1] in text]
    assert "rule: " in line


def test_a_circle_of_files_is_told_with_both_imports(broken):
    (line,) = [text for text in broken[1] if "a circle" in text and "round" in text.split(";")[0]]
    assert "wlsrl_jax/report/about.py:2" in line and "wlsrl_jax/report/round.py:1" in line


def test_a_file_without_a_room_is_told(broken):
    (line,) = [text for text in broken[1] if text.startswith("wlsrl_jax/hall: ")]
    assert "no room of this name; rule: " in line


def test_a_room_that_is_gone_is_told(tmp_path):
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "cli.py").touch()
    found = floor_plan.problems(floor_plan.read_house(tmp_path / PACKAGE))
    assert "wlsrl_jax/losses: tests/floor_plan.py lists it, and it is not there" in found
    assert len(found) == len(floor_plan.HEIGHT) - 1


def test_the_figures_count_what_breaks(tmp_path):
    package = tmp_path / PACKAGE
    package.mkdir()
    (package / "files.py").write_text("import wlsrl_jax.cli")
    (package / "cli.py").write_text("from wlsrl_jax import files")
    (package / "metrics.py").write_text("import wlsrl_jax.files, wlsrl_jax.tasks")
    (package / "tasks.py").touch()
    small = floor_plan.read_house(package)
    told = floor_plan.figures(small, small.rooms.__getitem__)
    assert told == "4 rooms, 2 floors, 4 arrows, 1 back up, 1 circles"
