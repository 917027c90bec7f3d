"""Every command: how it is run, how it ends, and what its flags take."""

import argparse
import ast
import contextlib
import inspect
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import wlsrl_jax
from tests.tiny import ROOT, tiny_flags
from wlsrl_jax import cli
from wlsrl_jax.__main__ import VERBS, load
from wlsrl_jax.files import (
    SHOWN,
    Mistake,
    is_disk_full,
    local_path,
    message_of,
    some,
    write_whole,
    writing,
)

PACKAGE = Path(wlsrl_jax.__file__).parent
STANDALONE = {
    "export/run_model.py",  # goes with an exported model and imports nothing of ours
    "ops/kernels/trial.py",  # what build.py starts
}
# Flags of free text, which are no paths. A new one is to be added here or to use a path type.
TEXTS = {"dataset", "name", "normal", "variant", "note", "beam_runner", "beam_options",
         "pixel_bits", "path_column", "label_column", "patient_column", "eye_column",
         "split_column", "coordinator_address", "num_processes", "process_id",
         "initialization_timeout"}  # fmt: skip


def entries():
    """Files that are a command of their own: (name, the block under ``if __name__``)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.If) and "__name__" in ast.dump(node.test):
                yield path.relative_to(PACKAGE).as_posix(), ast.unparse(node.body[-1])


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=300, **options
    )


def environment(**changes):
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def test_a_file_is_a_command_where_its_name_is_promised():
    promised = {"main.py", "predict/__main__.py", "data/prepare/__main__.py",
                "data/audit/__main__.py", "explain/__main__.py", "report/__main__.py",
                "export/__main__.py", "evaluate/__main__.py"}  # fmt: skip
    last = {name: line for name, line in entries() if name not in STANDALONE}
    assert last.keys() == {*promised, "__main__.py"}
    assert last.pop("__main__.py") == "main()"
    assert set(last.values()) == {"cli.run_command(main)"}
    modules = {f"wlsrl_jax/{name}" for name in promised}
    ours = {Path(load(verb).__file__).relative_to(PACKAGE.parent).as_posix() for verb in VERBS}
    assert modules <= ours


def test_every_parser_is_of_a_verb():
    makes = {
        path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")
        if re.search("^def make_parser", path.read_text(encoding="utf-8"), re.M)
    }  # fmt: skip
    of_verbs = {
        Path(inspect.getsourcefile(load(verb).make_parser)).relative_to(PACKAGE).as_posix()
        for verb in VERBS
    }
    assert makes == of_verbs


def flags_of(verb):
    parser = load(verb).make_parser()
    assert isinstance(parser, cli.Parser) and parser.prog == f"wlsrl {verb}"
    return [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]


@pytest.mark.parametrize("verb", VERBS)
def test_every_path_flag_is_a_path_of_this_machine(verb):
    for action in flags_of(verb):
        takes_text = action.nargs != 0 and not action.choices and action.type in (None, str, Path)
        if takes_text:
            assert action.dest in TEXTS, f"{verb}: --{action.dest} needs a type of cli.PATH_TYPES"
        if re.search(r"dir|file|source|^table|against|images|overlays|output", action.dest):
            if action.dest not in ("on_bad_file",):
                assert action.type in cli.PATH_TYPES, f"{verb}: --{action.dest}"
        if action.dest in ("output", "overlays"):
            assert action.type in (cli.output_file, cli.output_folder), f"{verb}: --{action.dest}"
        if action.type is int:
            pytest.fail(f"{verb}: --{action.dest} needs cli.number, which has a range")


def test_flags_are_of_one_style():
    """Images alone have no name; what several verbs have is told in the same words."""
    told = {}
    for verb in VERBS:
        for action in flags_of(verb):
            assert action.help, f"{verb}: {action.dest} has no help"
            if action.option_strings:
                assert action.option_strings == [f"--{action.dest}"], verb
                text = action.help.partition(";")[0]
                told.setdefault(action.dest, {}).setdefault(text, []).append(verb)
            else:
                assert action.dest == "images", f"{verb}: {action.dest} needs a name"
    for name in ("batch_size", "data_dir", "limit", "pixel_bits", "quality_check", "source"):
        assert len(told[name]) == 1, told[name]
    runs = {text for text, verbs in told["workdir"].items() if verbs != ["train"]}
    assert all(text.startswith("of a finished run") for text in runs) and len(runs) == 2


def test_help_lists_every_verb_and_loads_none():
    code = (
        "import sys, wlsrl_jax.__main__ as m; sys.argv = ['wlsrl', '--help']\n"
        "try:\n    m.main()\nfinally:\n"
        "    print(sorted({n.partition('.')[0] for n in sys.modules}))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=100, env=environment())  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    for verb, (_, line) in VERBS.items():
        assert f"  {verb:<12} {line}\n" in done.stdout
    for heavy in ("jax", "numpy", "absl", "ml_collections", "tensorflow_datasets", "matplotlib"):
        assert f"'{heavy}'" not in done.stdout
    assert done.stdout.isascii() and max(map(len, done.stdout.splitlines()[:-1])) <= 100
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert spent < 1.0, spent  # 0.1 s where nothing else runs


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["predict", "--help"], 0, "usage: wlsrl predict"),
        (["train", "--help"], 0, "usage: wlsrl train"),
        (["--version"], 0, f"wlsrl_jax {wlsrl_jax.__version__}\n"),
        (["predikt", "x.png"], 2, "error: there is no verb 'predikt'; did you mean predict? "),
        ([], 2, "error: a verb is needed"),
        (["card", "--workdir"], 2, "error: argument --workdir: expected one argument"),
        (["report", "runs/a"], 2, "error: the following arguments are required: --workdir"),
        (["--print-completion=ksh"], 2, "error: --print-completion=ksh: use bash"),
    ],
)
def test_what_the_command_says(arguments, status, said, tmp_path):
    if arguments and "completion" in arguments[0]:
        pytest.importorskip("shtab")
    done = run("wlsrl_jax", *arguments, cwd=tmp_path, env=environment())
    assert done.returncode == status and said in done.stdout + done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == (1 if status else 0), done.stderr


COMPLETED = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$(({count} - 1)); _shtab_wlsrl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def completions(tmp_path_factory):
    pytest.importorskip("shtab")
    if not shutil.which("bash"):
        pytest.skip("needs bash")
    script = tmp_path_factory.mktemp("completion") / "wlsrl.bash"
    done = run("wlsrl_jax", "--print-completion=bash", env=environment())
    assert done.returncode == 0, done.stderr
    script.write_text(done.stdout)
    return script


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("wlsrl e", ["evaluate", "explain", "export"]),
        ("wlsrl predict --mod", ["--modality_check"]),
        ("wlsrl predict --modality_check w", ["warn"]),
        ("wlsrl report --workdir ru", ["runs"]),
    ],
)
def test_a_shell_completes(words, expected, completions, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "rules.txt").touch()
    code = COMPLETED.format(script=completions, words=words, count=len(words.split()))
    done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          timeout=60)  # fmt: skip
    assert done.stdout.split() == expected, done.stderr


def test_a_path_is_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/runs/a") == tmp_path / "runs" / "a"
    assert local_path("runs/~a") == Path("runs/~a")
    assert local_path("C:/data") == Path("C:/data")
    assert local_path("pretrained:octdl") == Path("pretrained:octdl")
    for text in ("gs://b/x", "s3://b", "hdfs://host/x", "HTTPS://x/y.zip", "file:///x", "", " ",
                 "a\0b", "~nobody_of_this_name/x"):  # fmt: skip
        with pytest.raises(Mistake):
            local_path(text)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~$list.csv").touch()
    assert local_path("~$list.csv") == Path("~$list.csv")  # such as an office program leaves


def test_an_output_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    new = tmp_path / "not" / "there.csv"
    assert cli.output_file(str(new)) == new and not new.parent.exists()
    for kind, text in [(cli.output_file, tmp_path), (cli.output_folder, tmp_path / "file"),
                       (cli.output_file, tmp_path / "file" / "x.csv"),
                       (cli.output_folder, tmp_path / "file" / "x")]:  # fmt: skip
        with pytest.raises(argparse.ArgumentTypeError, match=re.escape(str(tmp_path))):
            kind(str(text))


def test_a_number_has_a_range():
    port = cli.number(1, 65535)
    assert port("7860") == 7860
    for text in ("0", "65536", "99999", "-1", "x", "1.5", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="1 to 65535"):
            port(text)


def test_a_long_list_is_bounded():
    lines = some(f"row {k}" for k in range(1_000_000))
    assert len(lines) == SHOWN + 1 and lines[-1] == f"  ... and {1_000_000 - SHOWN:,} more"
    assert some(["a", "b"]) == ["a", "b"] and some([]) == []


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_whole(path, b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as caught:
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert str(path) in message_of(caught.value) and "same command" in message_of(caught.value)
    with pytest.raises(OSError) as caught, writing(path):
        raise RuntimeError("write() failed: No space left on device; writing x")  # ArrayRecord's
    assert is_disk_full(caught.value) and str(path) in message_of(caught.value)
    with pytest.raises(ValueError, match="ours"), writing(path):
        raise ValueError("ours")
    assert not is_disk_full(Mistake("No space left on device"))


def printed(table):
    file = io.StringIO()
    with contextlib.redirect_stdout(file):
        cli.print_table(table)
        cli.console().print("[/old] :eye: [red]x")
    return file.getvalue()


def test_what_people_write_is_no_markup():
    table = cli.Table(title="[wet] :eye:")
    table.add_column("class [b]")
    table.add_row("DME [/old]")
    text = printed(table)
    for shown in ("[wet] :eye:", "class [b]", "DME [/old]", "[/old] :eye: [red]x"):
        assert shown in text


def test_nothing_of_ours_prints_with_markup():
    """Consoles and tables come from ``cli``, which shows text as it is."""
    for path in PACKAGE.rglob("*.py"):
        if path.name != "cli.py":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"rich\.(console|table) import|^import rich", text, re.M), path


def test_a_terminal_without_our_letters():
    code = (
        "from wlsrl_jax import cli; t = cli.Table(title='Z\\u00fcrich'); t.add_column('\\u60a3'); "
        "t.add_row('\\u00e9 rich'); "
        "cli.run_command(lambda argv: (cli.print_table(t), print('\\udce9'))[2:] or 0)"
    )
    for variables in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {}):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=100,
                              env=environment(**variables))  # fmt: skip
        assert done.returncode == 0 and b"rich" in done.stdout, done.stderr


def test_a_command_imports_without_what_windows_lacks():
    names = [load(verb).__name__ for verb in VERBS]
    code = f"""
import importlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "termios", "resource"):
            raise ImportError(name)
import filelock, jax, matplotlib, tensorflow_datasets  # what others import is not ours to mend
import grain, orbax.checkpoint, sklearn
for name in ("fcntl", "termios", "resource"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())
for name in {names!r}:
    importlib.import_module(name)
print("all")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          timeout=300, env=environment())  # fmt: skip
    assert done.stdout.endswith("all\n"), done.stderr


def test_a_users_own_jax_py_is_not_taken_for_jax(tmp_path):
    for name in ("jax", "random", "numpy", "signal", "rich"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not me')\n")
    (tmp_path / "neighbour.py").write_text("EPOCHS = 'many'\n")
    (tmp_path / "mine.py").write_text(
        "from neighbour import EPOCHS\nfrom wlsrl_jax.config.fields import base_config\n"
        "def get_config():\n    c = base_config('oct')\n    c.num_epochs = EPOCHS\n    return c\n"
    )
    for path in ("", str(tmp_path)):  # an empty entry of PYTHONPATH is the working directory
        env = environment(PYTHONPATH=os.pathsep.join([path, str(ROOT)]))
        done = run("wlsrl_jax", "summary", cwd=tmp_path, env=env)
        assert done.returncode == 0 and "total" in done.stdout, done.stderr
    script = str(console_script(tmp_path / "bin"))
    for command in (["-m", "wlsrl_jax", "train"], ["-m", "wlsrl_jax.main"], [script, "train"]):
        done = subprocess.run([sys.executable, *command, "--config=mine.py"], cwd=tmp_path,
                              env=environment(), capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 2 and "mine.py, line 5" in done.stderr, done.stderr
    for path in ("", str(tmp_path)):
        env = environment(PYTHONPATH=os.pathsep.join([path, str(ROOT)]))
        done = subprocess.run([sys.executable, script, "summary"], cwd=tmp_path, env=env,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0 and "total" in done.stdout, done.stderr


def console_script(folder):
    """The script that pip writes for the entry point of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, function = project["scripts"]["wlsrl"].split(":")
    folder.mkdir(exist_ok=True)
    script = folder / "wlsrl"
    script.write_text(
        f"import sys\nfrom {module} import {function}\n"
        f"if __name__ == '__main__':\n    sys.exit({function}())\n"
    )
    return script


def test_the_console_script_restarts_itself_and_remembers_its_command(tmp_path):
    """With large pages, as python -m does; the signals wait meanwhile."""
    script, workdir = console_script(tmp_path / "bin"), tmp_path / "run"
    flags = [f"--config={ROOT}/configs/oct.py", f"--workdir={workdir}", *tiny_flags(report=True)]
    env = {k: v for k, v in environment().items() if k != "GLIBC_TUNABLES"}
    process = subprocess.Popen([sys.executable, str(script), "train", *flags], cwd=tmp_path,
                               env=env, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert "devices" in process.stdout.readline()
    if sys.platform == "linux":
        started = Path(f"/proc/{process.pid}/environ").read_bytes()
        assert b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in started
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and f"report: {workdir / 'report.html'}" in output
    saved = json.loads((workdir / "environment.json").read_text())
    assert saved["command"] == ["wlsrl train", *flags]
    assert "wlsrl train --config=" in (workdir / "report.html").read_text()
    done = subprocess.run([sys.executable, str(script), "evaluate", f"--workdir={workdir}",
                           "--split=validation"], cwd=tmp_path, env=env, capture_output=True,
                          text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (workdir / "evaluation-phantom-validation" / "metrics.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["wlsrl_jax.main", f"--config={ROOT}/configs/oct.py", "--workdir=w"],
        ["wlsrl_jax.export", "--workdir=pretrained:octdl", "--output=x"],
        ["wlsrl_jax", "phantoms", "--modality=oct", "--output=x.png"],
    ],
)
@pytest.mark.parametrize("platform", ["cuda", "tpu", "nonsense"])
def test_a_device_that_is_not_there_is_one_line(arguments, platform, tmp_path):
    done = run(*arguments, cwd=tmp_path, env=environment(JAX_PLATFORMS=platform))
    if "phantoms" in arguments:  # needs no device
        assert done.returncode == 0, done.stderr
        return
    (line,) = [text for text in done.stderr.splitlines() if text.strip()]
    assert done.returncode == 2 and line.startswith(f"error: JAX_PLATFORMS={platform}"), line


def test_a_fault_of_ours_shows_its_traceback_and_a_mistake_does_not(capsys):
    def ours(argv):
        raise ValueError("operands could not be broadcast together")

    def theirs(argv):
        raise Mistake("--size=3 is too small.")

    with pytest.raises(ValueError, match="broadcast"):
        cli.status_of(ours, [])
    assert cli.status_of(theirs, []) == 2
    assert capsys.readouterr().err == "error: --size=3 is too small.\n"
