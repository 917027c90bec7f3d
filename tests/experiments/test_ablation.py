"""The runner of grids: one that is stopped and killed, its records, tables and statistics."""

import csv
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import ablation
from ablate import check, record, tables
from ablate.analysis import analyse
from ablate.grid import Cell, cells, load_grid, seeds
from ablate.statistics import Sample, estimate, holm
from tests.tiny import ROOT
from wlsrl_jax.evaluate import bootstrap
from wlsrl_jax.files import plain, read_json, write_json
from wlsrl_jax.models.by_name import make_model
from wlsrl_jax.models.summary import stages

RESULTS = sorted(
    p for p in (ROOT / "experiments" / "results").iterdir() if (p / "records").exists()
)
GRIDS = sorted((ROOT / "experiments" / "grids").glob("*.py"))

GRID = '''
from ablate.axes import BASELINES, WLSRL
from ablate.grid import Grid, cells, seeds


def get_grid():
    return Grid(
        name="small", config="configs/oct.py:phantom", description="A test.",
        common={
            "data.height": 32, "data.width": 32, "data.phantom.train": 96,
            "data.phantom.validation": 40, "data.phantom.test": 60, "model.preset": "tiny",
            "batch_size": 16, "num_epochs": 20.0, "eval.every_epochs": 10.0,
            "allow_missing_classes": True, "log_every": 1, "checkpoint.every_steps": 6,
            "optimizer.learning_rate": 0.01, %s
        },
        cells=cells(
            loss={"ce": BASELINES["ce"], "lost": {"init_from": %r}, "wlsrl": WLSRL["wlsrl-prior"]},
            seed=seeds(1)),
        metrics={"TO1": ("accuracy", "auroc", "ece"), "TO2": ("balanced_accuracy",)},
        baseline={"loss": "ce"},
    )
'''  # fmt: skip


def command(grid, output, *flags):
    return [sys.executable, "experiments/ablation.py", f"--grid={grid}", f"--output={output}",
            *flags]  # fmt: skip


def run(grid, output, *flags):
    return subprocess.run(
        command(grid, output, *flags), cwd=ROOT, capture_output=True, text=True, timeout=500
    )


def begin(grid, output, name, text, since=0):
    """Starts the runner and waits until a cell has said something; returns runner and cell."""
    runner = subprocess.Popen(command(grid, output), cwd=ROOT, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)  # fmt: skip
    log, end = output / "logs" / f"{name}.log", time.monotonic() + 300
    while not (log.exists() and re.search(text, log.read_text()[since:])):
        assert runner.poll() is None, runner.communicate()[0]
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()
    return runner, [int(child) for child in children]


def ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A grid that was stopped, whose runner was killed, and that was then run to its end."""
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc")
    folder = tmp_path_factory.mktemp("ablation")
    grid, output = folder / "small.py", folder / "out"
    grid.write_text(GRID % ("", "/nowhere"))
    runner, _ = begin(grid, output, "ce_seed0", "first step done")
    runner.send_signal(signal.SIGTERM)
    stopped = (runner.communicate(timeout=300)[0], runner.returncode)
    since = (output / "logs" / "ce_seed0.log").stat().st_size
    runner, (cell,) = begin(grid, output, "ce_seed0", r"going on|first step done", since)
    os.kill(cell, signal.SIGSTOP)
    runner.kill()
    runner.wait()
    orphaned = run(grid, output)
    os.kill(cell, signal.SIGCONT)
    end = time.monotonic() + 300
    while not ended(cell):
        assert time.monotonic() < end
        time.sleep(0.1)
    last = run(grid, output)
    return {"grid": grid, "output": output, "stopped": stopped, "orphaned": orphaned, "last": last}


def test_a_stopped_runner_saves_its_cell_and_says_how_to_go_on(story):
    text, status = story["stopped"]
    assert status == 75, text
    assert f"--output={story['output']}" in text.splitlines()[-1]
    assert "0 of 3 cells" in text
    log = (story["output"] / "logs" / "ce_seed0.log").read_text()
    assert re.search(r"saved step \d+", log) and re.search(r"going on from step \d+", log)


def test_a_cell_whose_runner_was_killed_is_left_to_its_process(story):
    done = story["orphaned"]
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ce_seed0 is taken by another runner" in done.stdout
    assert "1 of 3 cells of grid small are done" in done.stdout
    # It had finished by itself: there was nothing to run, only a record to make.
    log = (story["output"] / "logs" / "ce_seed0.log").read_text()
    assert log.count("results:") == 1
    assert "cell 1/3 ce_seed0 TO1 accuracy 0." in story["last"].stdout


def test_a_failed_cell_is_shown_and_the_others_go_on(story):
    last, output = story["last"], story["output"]
    assert last.returncode == 1
    assert "lost_seed0 FAILED, exit status 2" in last.stdout
    assert "1 failed: lost_seed0" in last.stderr
    with (output / "results.csv").open() as file:
        rows = {row["cell"]: row for row in csv.DictReader(file)}
    states = {name: row["status"] for name, row in rows.items()}
    assert states == {"ce_seed0": "finished", "lost_seed0": "failed", "wlsrl_seed0": "finished"}
    assert "/nowhere" in " ".join(read_json(output / "failures" / "lost_seed0.json")["log"])
    metrics = read_json(output / "cells" / "wlsrl_seed0" / "metrics.json")
    for split in ("test", "validation"):
        found = float(rows["wlsrl_seed0"][f"{split}/TO1/auroc"])
        assert found == metrics[split]["TO1"]["auroc"]
    assert rows["lost_seed0"]["test/TO1/auroc"] == ""
    for text in ((output / "tables.md").read_text(), (output / "tables.tex").read_text()):
        assert "1 FAILED" in text and "PHANTOM DATA" in text


def test_tables_hold_the_values_of_the_runs(story):
    output, grid = story["output"], load_grid(story["grid"])
    text = (output / "tables.md").read_text()
    values = {}
    for name in ("ce_seed0", "wlsrl_seed0"):
        metrics = read_json(output / "cells" / name / "metrics.json")["test"]
        values[name] = metrics["TO1"]["accuracy"]
        assert f"{metrics['TO1']['accuracy']:.3f} (" in text
        assert f" {metrics['TO1']['ece']:.3f} |" in text  # without an interval
        assert f"{metrics['TO2']['balanced_accuracy']:.3f} (" in text
    found = analyse(grid, output, ablation.statuses(grid, output))
    (row,) = [r for r in found.rows if dict(r.condition)["loss"] == "wlsrl"]
    difference = row.differences["TO1", "accuracy"].estimate
    assert difference.value == pytest.approx(values["wlsrl_seed0"] - values["ce_seed0"], abs=1e-12)
    assert set(row.differences) == {("TO1", "accuracy"), ("TO1", "auroc"),
                                    ("TO2", "balanced_accuracy")}  # fmt: skip
    assert found.comparisons <= 3 and found.images == 60
    assert f"{difference.value:+.3f} (" in text
    plots = sorted(path.name for path in (output / "plots").iterdir())
    assert plots == [f"{t}-{k}.svg" for t in ("TO1", "TO2") for k in ("differences", "seeds")]
    assert all("PHANTOM DATA" in path.read_text() for path in (output / "plots").iterdir())


def test_records_are_small_and_enough_to_go_on_elsewhere(story, tmp_path, capsys):
    output = story["output"]
    assert not (output / "cells" / "ce_seed0" / "checkpoints").exists()
    for name in ("ce_seed0", "wlsrl_seed0"):
        files = list((output / "records").glob(f"{name}.*"))
        assert len(files) == 2 and sum(file.stat().st_size for file in files) < 30_000
        text = "".join(file.read_bytes().decode("latin-1") for file in files)
        assert "phantom-oct-test" not in text and str(output) not in text
    shutil.copytree(output / "records", tmp_path / "records")
    shutil.copytree(output / "failures", tmp_path / "failures")
    arguments = [f"--grid={story['grid']}", f"--output={tmp_path}"]
    assert ablation.main([*arguments, "--tables_only"]) == 0
    for name in ("results.csv", "tables.md", "tables.tex"):
        assert (tmp_path / name).read_bytes() == (output / name).read_bytes(), name
    capsys.readouterr()
    ablation.main([*arguments, "--list"])
    assert capsys.readouterr().out.split() == [
        "finished", "ce_seed0", "failed", "lost_seed0", "finished", "wlsrl_seed0"]  # fmt: skip


def test_a_record_of_another_definition_is_refused(story, tmp_path):
    other = tmp_path / "small.py"
    other.write_text(GRID % ('"augment.flip": 0.25,', "/nowhere"))
    with pytest.raises(ValueError, match=r"ce_seed0.json .*\n.*augment.flip: 0.5 there, 0.25 now"):
        ablation.main([f"--grid={other}", f"--output={story['output']}", "--tables_only"])
    # A workdir that a runner left before it could make the record, too.
    copy = tmp_path / "copy"
    shutil.copytree(story["output"] / "cells", copy / "cells")
    with pytest.raises(ValueError, match="augment.flip: 0.5 there, 0.25 now"):
        ablation.main([f"--grid={other}", f"--output={copy}"])


def test_damaged_records_are_refused(story, tmp_path):
    shutil.copytree(story["output"] / "records", tmp_path / "records")
    arguments = [f"--grid={story['grid']}", f"--output={tmp_path}", "--tables_only"]
    arrays = tmp_path / "records" / "ce_seed0.npz"
    content = arrays.read_bytes()
    arrays.write_bytes((tmp_path / "records" / "wlsrl_seed0.npz").read_bytes())
    with pytest.raises(ValueError, match="does not belong to ce_seed0.json"):
        ablation.main(arguments)
    arrays.unlink()
    with pytest.raises(ValueError, match=r"ce_seed0.npz is missing"):
        ablation.main(arguments)
    arrays.write_bytes(content)
    path = tmp_path / "records" / "ce_seed0.json"
    document = read_json(path)
    del document["config"]["data"]["sampling"]  # of a time when there was no such field
    write_json(path, document)
    assert ablation.main(arguments) == 0


def test_a_mended_cell_is_run_again(story, tmp_path):
    mended, output = tmp_path / "small.py", tmp_path / "out"
    mended.write_text(GRID % ("", ""))
    for part in ("records", "failures"):
        shutil.copytree(story["output"] / part, output / part)
    done = run(mended, output, "--index=1", "--count=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 cells" in done.stdout
    assert "FAILED" not in (output / "tables.md").read_text()
    assert not list((output / "failures").iterdir())


@pytest.mark.parametrize("path", GRIDS, ids=lambda p: p.stem)
def test_grids_are_sound(path):
    grid = load_grid(path)
    assert grid.name == path.stem
    for cell in grid.cells:
        assert re.fullmatch(r"[A-Za-z0-9.+_-]+", cell.name)
        config = check.resolved_config(grid, cell, "")
        assert config.seed == cell.labels["seed"]
        assert config.data.fold == cell.labels.get("fold", -1)
        if config.data.dataset == "phantom":
            check.check_cell(grid, cell, config)
    check.check_metrics(grid, config.modality)


@pytest.mark.parametrize("results", RESULTS, ids=lambda path: path.name)
def test_committed_records_are_of_the_cells_of_today(results):
    """Under the names that their fields had then."""
    grid = load_grid(ROOT / "experiments" / "grids" / f"{results.name}.py")
    done = [cell for cell in grid.cells if record.json_path(results, cell.name).exists()]
    assert done
    for cell in done:
        config = plain(check.resolved_config(grid, cell, "").to_dict())
        record.check_record(results, cell.name, config)
    config["model"]["preset"] = "base"
    with pytest.raises(ValueError, match="config.model.preset: .* there, 'base' now"):
        record.check_record(results, cell.name, config)


@pytest.mark.parametrize("budget", ["parameters", "flops"])
def test_wider_streams_cost_as_much_as_two(budget):
    grid = load_grid(ROOT / "experiments/grids/octdl_streams.py")
    found = {}
    for cell in grid.cells[:: len(grid.cells) // 5]:
        model = dict(check.resolved_config(grid, cell, "").model)
        model |= {"conv_implementation": "lax", "dtype": "float32"}
        network = make_model(heads={"TO1": 7, "TO2": 2}, **model)
        found[cell.labels["streams"]] = sum(
            getattr(row, budget) for row in stages(network, (96, 192, 1))
        )
    assert len(found) == 5
    for streams in ("separable, wider", "standard, wider"):
        assert found[streams] == pytest.approx(found["dual"], rel=0.04)
    assert max(found["separable"], found["standard"]) < 0.9 * found["dual"]


def test_array_jobs_share_a_grid_out():
    grid = load_grid(ROOT / "experiments" / "grids" / "phantom_oct.py")
    parts = [ablation.chosen(grid, "", k, 5) for k in range(5)]
    names = [cell.name for part in parts for cell in part]
    assert sorted(names) == sorted(cell.name for cell in grid.cells)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    in_order = [cell.labels["seed"] for cell in ablation.chosen(grid, "", 0, 1)]
    assert in_order == sorted(in_order)
    (cell,) = ablation.chosen(grid, "^ce_dual_seed1$", 0, 1)
    assert cell.labels == {"loss": "ce", "streams": "dual", "seed": 1}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--grid=unknown"], r"unknown.py does not exist; there is .*octdl"),
        (["--grid=phantom_oct", "--only=zzz"], "finds no cell"),
        (["--grid=phantom_oct", "--only=("], "no regular expression"),
        (["--grid=phantom_oct", "--index=2", "--count=2"], "--index=2"),
        (["--grid=octdl", "--data_dir=/nowhere"], "octdl is not prepared"),
    ],
)
def test_wrong_flags_are_told(flags, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ablation.main([*flags, f"--output={tmp_path}"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed=seeds(1)", 'seed=seeds(1), x={"": {}, "-": {}}', "two cells are called ce_seed0"),
        ('{"loss": "ce"}', '{"lost": "ce"}', "names a column 'lost'"),
        ('{"loss": "ce"}', '{"loss": "cf"}', "no cell is the baseline"),
        ("def get_grid", "def grid", r"no function get_grid\(\)"),
        ('"batch_size"', '"batchsize"', r"cell ce_seed0: config.batchsize=16"),
        ('"batch_size": 16', '"batch_size": "x"', r"cell ce_seed0: config.batch_size='x'"),
        ('"batch_size": 16', '"batch_size": 0', "cell ce_seed0: config.batch_size=0 must be > 0"),
        ('BASELINES["ce"]', '{"loss.name": "sord"}', "cell ce_seed0: .*is for ordered classes"),
        ('"accuracy"', '"qwk"', "TO1 has no metric 'qwk'"),
        ('"TO2": (', '"TF2": (', "no task 'TF2'"),
        ("oct.py:phantom", "oct.py:phantoms", "phantoms is not prepared"),
        ("oct.py:phantom", "octopus.py", "configs/octopus.py does not exist"),
    ],
)
def test_mistakes_in_a_grid_are_told_before_anything_runs(old, new, message, tmp_path):
    text = GRID % ("", "")
    assert old in text
    (tmp_path / "small.py").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        ablation.main([f"--grid={tmp_path / 'small.py'}", f"--output={tmp_path / 'out'}"])
    assert not (tmp_path / "out" / "cells").exists()


def test_cells_are_products_with_names():
    found = cells(loss={"wlsrl target": {"loss.name": "wlsrl"}, "ce": {"loss.name": "ce"}},
                  smoothing={0.1: {"loss.smoothing": 0.1}}, seed=seeds(2))  # fmt: skip
    assert [cell.name for cell in found] == [
        "wlsrl-target_smoothing0.1_seed0", "wlsrl-target_smoothing0.1_seed1",
        "ce_smoothing0.1_seed0", "ce_smoothing0.1_seed1"]  # fmt: skip
    assert found[3] == Cell({"loss": "ce", "smoothing": 0.1, "seed": 1},
                            {"loss.name": "ce", "loss.smoothing": 0.1, "seed": 1})  # fmt: skip
    assert found[0].condition == found[1].condition != found[2].condition


def test_ids_are_hashed_with_the_data_set():
    named = [("octdl", "1"), ("octid", "1"), ("octdl", "2")]
    assert len({int(record._hashed(dataset, [name])[0]) for dataset, name in named}) == 3


def test_holm_equals_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(rng.integers(1, 12)) ** 3
        expected = multitest.multipletests(p, method="holm")[1]
        np.testing.assert_allclose(holm(p.tolist()), expected, rtol=1e-12)
    assert holm([0.02, math.nan, 0.01]) == pytest.approx([0.02, math.nan, 0.02], nan_ok=True)


GROUPS = 60


def normal_sample(rng, weights, seeds, mean=0.0, *, of_seed=0.0, of_patient=1.0, of_both=0.0):
    """Mean of an additive random quantity: seeds, patients, and what belongs to both."""
    x = mean + of_seed * rng.normal(size=(seeds, 1)) + of_patient * rng.normal(size=(1, GROUPS))
    x = x + of_both * rng.normal(size=(seeds, GROUPS))
    return x, Sample(x.mean(axis=1), x @ weights.T / GROUPS, GROUPS)


def weights(replicates):
    parts = bootstrap.replicate_weights(np.arange(GROUPS), replicates=replicates, seed=1)
    return np.concatenate(list(parts)).astype(np.float64)


def test_interval_and_p_over_patients_are_those_of_the_t_test():
    rng, drawn = np.random.default_rng(0), weights(20_000)
    for mean in (0.0, 0.2, 0.5):
        x, sample = normal_sample(rng, drawn, 1, mean)
        found, expected = estimate([sample]), stats.ttest_1samp(x[0], 0.0)
        low, high = expected.confidence_interval(0.95)
        assert found.value == pytest.approx(x.mean())
        assert found.low == pytest.approx(low, abs=0.02 * (high - low))
        assert found.high == pytest.approx(high, abs=0.02 * (high - low))
        assert found.p == pytest.approx(expected.pvalue, rel=0.15, abs=0.002)


def test_interval_over_seeds_is_that_of_the_t_distribution():
    rng, drawn = np.random.default_rng(1), weights(20_000)
    x, sample = normal_sample(rng, drawn, 6, of_seed=1.0, of_patient=1e-3)
    found, expected = estimate([sample]), stats.ttest_1samp(x.mean(axis=1), 0.0)
    low, high = expected.confidence_interval(0.95)
    assert found.seeds == pytest.approx(tuple(x.mean(axis=1)))
    assert found.high - found.low == pytest.approx(high - low, rel=0.1)
    assert found.p == pytest.approx(expected.pvalue, rel=0.1)


@pytest.mark.parametrize(
    ("count", "folds", "parts"),
    [
        (3, 1, {"of_seed": 0.13, "of_both": 1.0}),
        (3, 1, {"of_seed": 0.3}),
        (3, 5, {"of_seed": 0.13, "of_both": 1.0}),
        (5, 1, {"of_seed": 0.2, "of_both": 1.0}),
    ],
)
def test_intervals_hold_the_truth(count, folds, parts):
    rng, drawn, inside, rejected = np.random.default_rng(2), weights(300), 0, 0
    for trial in range(600):
        samples = [normal_sample(rng, drawn, count, **parts)[1] for _ in range(folds)]
        found = estimate(samples, seed=trial)
        inside += found.low <= 0.0 <= found.high
        rejected += found.p < 0.05
    assert 0.89 < inside / 600 < 0.995
    assert rejected / 600 < 0.11


def test_folds_may_have_different_numbers_of_seeds_until_they_are_finished():
    rng, drawn = np.random.default_rng(4), weights(500)
    samples = [normal_sample(rng, drawn, count, 1.0)[1] for count in (3, 2)]
    found = estimate(samples)
    assert found.value == pytest.approx(np.mean([s.point.mean() for s in samples]))
    assert len(found.seeds) == 5 and found.low < found.value < found.high


def test_what_two_conditions_share_cancels_in_their_difference():
    rng, drawn = np.random.default_rng(3), weights(2000)
    _, shared = normal_sample(rng, drawn, 3, of_seed=0.5)
    _, own = normal_sample(rng, drawn, 3, 0.05, of_patient=0.1)
    better = Sample(shared.point + own.point, shared.drawn + own.drawn, GROUPS)
    assert estimate([better]).p > 0.2
    difference, alone = estimate([better - shared]), estimate([own])
    assert difference.low == pytest.approx(alone.low) and difference.high == pytest.approx(
        alone.high
    )
    assert difference.p < 0.05


def test_without_variation_or_definition_there_is_no_interval():
    same = Sample(np.full(3, 0.7), np.full((3, 50), 0.7), 10)
    found = estimate([same])
    assert found.value == pytest.approx(0.7) and math.isnan(found.low) and math.isnan(found.p)
    drawn = np.random.default_rng(0).random((1, 100))
    drawn[:, :51] = np.nan  # a class that most replicates lack
    assert math.isnan(estimate([Sample(np.full(1, 0.5), drawn, 10)]).low)
    drawn[:, :49] = 0.5
    assert not math.isnan(estimate([Sample(np.full(1, 0.5), drawn, 10)]).low)
    undefined = estimate([Sample(np.array([0.5, np.nan]), np.ones((2, 5)), 10)])
    assert math.isnan(undefined.value)


def test_latex_is_escaped():
    text = tables.escaped("macro-F1 50% a_b <0.001 0.1-0.2 -0.1 +0.2 A&B seed-0")
    assert text == r"macro-F1 50\% a\_b $<$0.001 0.1--0.2 $-$0.1 $+$0.2 A\&B seed-0"


def test_labels_stand_in_the_tables_as_they_are():
    table = [["data", "p"], ["CNV|`wet`\n<b>_x_ $y$ & 50%", "<0.001"]]
    assert tables._markdown(table, 1).splitlines() == [
        "| data | p |",
        "| --- | ---: |",
        r"| CNV\|\`wet\`&#10;\<b>\_x\_ \$y\$ & 50% | <0.001 |",
    ]
    rows = tables._latex(table, "two\n\nparagraphs", "x", 1)
    assert r"CNV|`wet` $<$b$>$\_x\_ \$y\$ \& 50\% & $<$0.001 \\" in rows and "\n\n" not in rows
