"""``wlsrl evaluate``: its flags, and how it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.tiny import ROOT, start_verb, wlsrl
from wlsrl_jax.evaluate import __main__ as command


def test_its_flags():
    flags = ["--workdir=~/run", '--label_map=CNV:AMD,"a,b":NO', "--data_dir=~/d"]
    args = command.make_parser().parse_args(flags)
    home = os.path.expanduser("~")
    assert str(args.workdir) == f"{home}/run" and args.data_dir == f"{home}/d"
    assert args.label_map == {"CNV": "AMD", "a,b": "NO"} and args.split == "test"


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--label_map=CNV", "--label_map='CNV' must read THEIRS:OURS"),
        ("--label_map=A:B,A:C", "maps A twice"),
        ("--split=other", "--split: invalid choice: 'other'"),
        ("--batch_size=0", "--batch_size: '0' must be a whole number"),
    ],
)
def test_a_wrong_flag_is_one_line(flag, told, capsys):
    with pytest.raises(SystemExit) as ended:
        wlsrl("evaluate", "--workdir=run", flag)
    assert ended.value.code == 2 and told in capsys.readouterr().err


def in_a_process(module, *flags, **env):
    return subprocess.run([sys.executable, "-m", *module, *flags], cwd=ROOT, capture_output=True,
                          text=True, timeout=300, env={**os.environ, **env})  # fmt: skip


@pytest.mark.parametrize("module", [["wlsrl_jax", "evaluate"], ["wlsrl_jax.evaluate"]])
def test_a_run_is_tested_again_without_its_config_file(module, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    done = in_a_process(module, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    again = json.loads((workdir / "evaluation-phantom-test" / "metrics.json").read_text())
    known = json.loads((workdir / "metrics.json").read_text())
    assert again["test"] == known["test"] and again["provenance"]
    assert "results: " in done.stdout and "PHANTOM DATA" in done.stdout


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--workdir=nowhere"], "error: --workdir=nowhere holds no finished run; train it first."),
        (["--dataset=oct2017"], "error: oct2017 is not prepared in "),
        (["--label_map=X:CNV"], "error: --label_map has X:CNV, but phantom has "),
    ],
)
def test_a_mistake_is_one_line_and_status_2(flags, told, finished):
    done = in_a_process(["wlsrl_jax", "evaluate"], f"--workdir={finished}", *flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(told), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_status_75_from_the_first_moment(number, finished):
    """Also while it imports: the signal waits until there is somebody to look at it."""
    for wait_for_line in (False, True):
        process = start_verb("evaluate", f"--workdir={finished}", "--batch_size=1",
                             "--split=train")  # fmt: skip
        if wait_for_line:
            assert "devices" in process.stdout.readline()
        else:
            held(process)
        process.send_signal(number)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 75, output
        assert f"stopped by {number.name}; start again with the same command" in output
    assert not (finished / "evaluation-phantom-train").exists()


def held(process):
    """Waits until a process holds its signals."""
    while True:
        with open(f"/proc/{process.pid}/status", encoding="ascii") as file:
            (line,) = [text for text in file if text.startswith("SigBlk")]
        if int(line.split()[1], 16) & 1 << (signal.SIGTERM - 1):
            return


def test_several_processes_share_the_work(finished, tmp_path):
    """As a launcher starts them, by the environment alone."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    with subprocess.Popen(  # a free port
        [sys.executable, "-c", "import socket; s = socket.create_server(('127.0.0.1', 0)); "
         "print(s.getsockname()[1])"], stdout=subprocess.PIPE, text=True,
    ) as asked:  # fmt: skip
        port = asked.stdout.read().strip()
    running = [
        start_verb("evaluate", f"--workdir={workdir}", "--batch_size=16", env={
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(k)})
        for k in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert "2 x cpu" in said[0] and "results" not in said[1]
    again = json.loads((workdir / "evaluation-phantom-test" / "metrics.json").read_text())
    known = json.loads((finished / "metrics.json").read_text())
    assert again["test"]["TO1"]["accuracy"] == known["test"]["TO1"]["accuracy"]
    assert again["test"]["TO1"]["count"] == known["test"]["TO1"]["count"]
