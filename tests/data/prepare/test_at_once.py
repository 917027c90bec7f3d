"""Several commands that prepare the same set at the same time, as an array of jobs does."""

import json
import os
import subprocess
import sys

from tests import sources
from tests.tiny import ROOT


def test_one_does_the_work_and_the_others_find_it_done(tmp_path):
    source = sources.octdl(tmp_path / "octdl", patients=12)
    command = [sys.executable, "-m", "wlsrl_jax.data.prepare", "--dataset=octdl",
               f"--source={source}", f"--data_dir={tmp_path / 'data'}", "--size=32x32"]  # fmt: skip
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         env={**os.environ, "PYTHONPATH": str(ROOT)})
        for _ in range(3)
    ]  # fmt: skip
    found = [(*p.communicate(timeout=200), p.returncode) for p in processes]
    assert [status for *_, status in found] == [0, 0, 0], found
    last = sorted(output.splitlines()[-1].partition(":")[0] for output, _, _ in found)
    assert last == ["prepared", *["prepared already, from the same files"] * 2], found
    assert "waiting: another command prepares octdl" in "".join(errors for _, errors, _ in found)
    manifest = json.loads((tmp_path / "data/octdl/1.0.0/manifest.json").read_text("utf-8"))
    assert len(manifest["images"]) == 12 * 2 * 7
    left = sorted(p.name for p in (tmp_path / "data").iterdir())
    assert left == ["octdl"]
