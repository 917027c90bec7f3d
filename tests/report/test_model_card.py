import json
import re
import shutil

import pytest

from wlsrl_jax.report.model_card import main, model_card


def tables(text):
    """Rows of every Markdown table: lists of cells."""
    found, before = [], ""
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [c.strip() for c in line.strip("|").split("|")]
            if not before.startswith("|"):
                assert before == "", "a table needs an empty line before it"
                found.append([])
            found[-1].append(cells)
        before = line
    return found


def test_what_it_says(finished):
    text = model_card(finished)
    metrics = json.loads((finished / "metrics.json").read_text())
    assert "PHANTOM DATA" in text and "no medical device" in text
    assert f"{metrics['test']['TO1']['accuracy']:.3f}" in text
    assert not re.search(r"\{[{%]", text) and "phantom-oct-" not in text
    found = tables(text)
    assert len(found) == 3  # data, results, classes of TO1
    for table in found:
        assert len({len(row) for row in table}) == 1
    assert "few test images" in text  # 50 images, four classes
    assert "wlsrl train" in text


def test_command(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    main([f"--workdir={tmp_path / 'run'}"])
    assert "MODEL_CARD.md" in capsys.readouterr().out
    assert (tmp_path / "run" / "MODEL_CARD.md").read_text() == model_card(tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(ValueError, match="holds no finished run"):
        main([f"--workdir={tmp_path / 'run'}"])
