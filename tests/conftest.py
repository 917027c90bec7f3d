import os
import shutil
import subprocess
import tempfile

import pytest

from tests.tiers import tier_of

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "wlsrl_jax_test_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def pytest_collection_modifyitems(items):
    for item in items:
        tier = tier_of(item.nodeid)
        if tier and not item.get_closest_marker("slow"):
            item.add_marker(tier)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The workdir of a run that nobody disturbed."""
    from tests.tiny import run

    workdir = tmp_path_factory.mktemp("finished")
    run(workdir, log_example_ids=True, report=True)
    return workdir


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium that logs its console and its network."""
    webdriver = pytest.importorskip("selenium.webdriver")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=service.Service(driver)) as found:
        yield found


@pytest.fixture
def small_disk(tmp_path):
    """(folder, function that mounts a small file system there with some options)."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("needs root to mount a small file system")

    yield disk, mount
    subprocess.run(["umount", "-l", str(disk)], check=False, capture_output=True)
