"""Short rounds of the chaos and fuzz experiments, and the launchers as far as a machine allows."""

import re
import shutil
import subprocess
import sys

import pytest

from experiments.fuzz_inputs import KINDS
from tests.tiny import ROOT

LAUNCH = ROOT / "experiments" / "launch"


@pytest.mark.parametrize(("kind", "runs"), [("1x1", 2), ("2x1", 1)])
def test_disturbed_runs_lose_nothing(kind, runs):
    command = [sys.executable, "experiments/chaos.py", f"--kinds={kind}", f"--runs={runs}",
               "--faults=3", "--seed=1"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d* faults in \d runs, 0 runs lost something", done.stdout), done.stdout


def test_damaged_inputs_are_read_or_refused(tmp_path):
    command = [sys.executable, ROOT / "experiments/fuzz.py", "--count=3000", "--seed=7"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(re.findall(r"^(\w+ \w+): (\d+)", done.stdout, re.M))
    assert set(counts) == {f"{kind} {what}" for kind in KINDS for what in ("accepted", "refused")}


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda p: p.name)
def test_shell_scripts_are_sound(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.stat().st_mode & 0o100
    if not shutil.which("shellcheck"):
        pytest.skip("needs shellcheck")
    subprocess.run(["shellcheck", str(path)], check=True)


SRUN = """#!/bin/bash
echo "srun $*"
exit "$STATUS"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*"
"""


@pytest.mark.parametrize(
    ("status", "restarts", "code", "requeued"),
    [
        (0, 0, 0, False),
        (75, 0, 0, True),
        (76, 19, 0, True),
        (75, 20, 75, False),
        (2, 0, 2, False),
        (137, 2, 0, True),
        (1, 3, 1, False),
    ],
)
@pytest.mark.parametrize("script", ["slurm.sh", "slurm_array.sh"])
def test_slurm_jobs_are_queued_again_only_when_they_can_go_on(
    script, status, restarts, code, requeued, tmp_path
):
    python = "#!/bin/bash\n"
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", python)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    sweep = tmp_path / "sweep.txt"
    sweep.write_text("--config.seed=0 --workdir=a\n--config.seed=1 --workdir=b\n")
    arguments = [str(sweep)] if script == "slurm_array.sh" else []
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "STATUS": str(status), "SLURM_JOB_ID": "12",
           "SLURM_RESTART_COUNT": str(restarts), "SLURM_ARRAY_TASK_ID": "2",
           "SLURM_ARRAY_JOB_ID": "11"}  # fmt: skip
    done = subprocess.run(["bash", str(LAUNCH / script), *arguments, "--config=c.py"], env=env,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "python -m wlsrl_jax.main --config=c.py" in done.stdout
    if script == "slurm_array.sh":
        assert "--config.seed=1 --workdir=b" in done.stdout
    assert ("scontrol requeue" in done.stdout) == requeued


@pytest.mark.parametrize("name", ["kubernetes.yaml", "jobset.yaml"])
def test_kubernetes_files(name):
    """Against the published schemas, where kubernetes-validate is there; JobSet's Job template."""
    yaml = pytest.importorskip("yaml")
    documents = list(yaml.safe_load_all((LAUNCH / name).read_text()))
    assert documents
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    for document in documents:
        if document["kind"] == "JobSet":
            job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
            document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}}
            document["spec"] = job
        validate.validate(document, "1.31", strict=True)
