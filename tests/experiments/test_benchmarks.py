import importlib
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from wlsrl_jax.runtime import huge_pages

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a benchmark as its own command would."""
    monkeypatch.setenv(huge_pages.VARIABLE, huge_pages.SETTING)  # the harness would set it for good
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.parametrize("way", ["patches", "winograd", "space_to_depth"])
def test_other_formulations_are_the_same_convolution(benchmark, way):
    formulations = benchmark("formulations")
    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))
    k = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
    expected = formulations.lax_conv("NHWC")(x, k)
    np.testing.assert_allclose(getattr(formulations, way)(x, k), expected, atol=1e-4)


def test_layouts_are_the_same_convolution(benchmark):
    formulations = benchmark("formulations")
    for kernel in ((3, 3, 3, 5), (3, 3, 1, 3)):
        x = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))
        k = jax.random.normal(jax.random.key(1), kernel)
        both = [formulations.lax_conv(layout)(x, k) for layout in ("NHWC", "NCHW")]
        np.testing.assert_allclose(*both, atol=1e-4)


def test_ratios_are_formed_within_a_round(benchmark):
    harness = benchmark("harness")
    times = {"ours": [1.0, 2.0, 1.0], "theirs": [2.0, 2.0, 4.0]}
    assert harness.ratio(times, "ours", "theirs") == {"min": 1.0, "median": 2.0, "max": 4.0}


def test_flops_are_those_of_direct_convolutions(benchmark):
    """One stage of one block, by hand."""
    nets = benchmark("nets")
    net = nets.Net(size=8, channels=3, widths=(4,), blocks=1, hidden=5)
    convolutions = 2 * (2 * 9 * 3 * 4 * 8 * 8)  # the first of both streams is a standard one
    dense = 2 * (8 * 5) + 2 * 5 * (4 + 2)
    assert nets.flops(net) == convolutions + dense


def test_a_process_of_its_own_repeats_and_reports_its_memory(benchmark):
    harness = benchmark("harness")
    product = harness.Candidate(harness.matrix_product, 16)
    times = harness.interleave({"a": product}, rounds=2, seconds=0.01)
    assert len(times["a"]) == 2 and min(times["a"]) > 0
    assert product.close() > 2**20


def test_exported_models_are_timed_after_they_agree(benchmark, finished, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    export = benchmark("export")
    runs, _ = export.setup(str(finished), str(tmp_path))
    assert set(runs) == {f"{way}, batch {size}" for way in export.WAYS for size in export.BATCHES}
    for call in runs.values():
        call(1)


def test_phantoms_are_drawn_once_with_their_table(benchmark, tmp_path):
    prepare = benchmark("prepare")
    folder = prepare.phantoms(tmp_path, "oct", 7)
    lines = (folder / prepare.TABLE).read_text().splitlines()
    assert lines[0] == "path,label,patient" and len(lines) == 8
    assert [line.rpartition(",")[2] for line in lines[1:]] == [f"patient{k // 3}" for k in range(7)]
    images = {p.relative_to(folder).as_posix() for p in folder.rglob("*.jpg")}
    assert images == {line.partition(",")[0] for line in lines[1:]}
    before = (folder / prepare.TABLE).stat().st_mtime_ns
    assert prepare.phantoms(tmp_path, "oct", 7) == folder
    assert (folder / prepare.TABLE).stat().st_mtime_ns == before


def test_a_command_is_timed_and_its_failure_told(benchmark):
    prepare = benchmark("prepare")
    code = "x = bytearray(2**26); print('done')"
    seconds, peak, text = prepare.measure([sys.executable, "-c", code])
    assert seconds > 0 and peak > 64 and text == "done\n"
    with pytest.raises(RuntimeError, match="failed:\nnot today"):
        prepare.measure([sys.executable, "-c", "import sys; sys.exit('not today')"])
