"""Cells between people, spreadsheets and us."""

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.data.text.test_names import MISSING
from wlsrl_jax.data.text.tables import csv_text, original_cell, read_table, safe_cell
from wlsrl_jax.files import Mistake


@given(st.text(alphabet=st.sampled_from("=+-@\t\r\n'a0 ,\"") | st.characters()))
@example("'=1+1")
@example("''-x")
@example("=cmd|'/C calc'!A0")
def test_no_cell_is_a_formula_and_every_one_is_read_back(text):
    cell = safe_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert original_cell(cell) == text


def test_rows_are_written_safely_and_numbers_as_numbers():
    text = csv_text([["=a", "007", -1.5], ["b,c", "'d", 2]])
    assert list(csv.reader(io.StringIO(text))) == [["'=a", "007", "-1.5"], ["b,c", "'d", "2"]]


@pytest.mark.parametrize("text", MISSING)
def test_a_missing_value_is_the_empty_cell(text, tmp_path):
    (tmp_path / "a.csv").write_text(f"path;label\nx.png;{text}\n")
    assert read_table(tmp_path / "a.csv", ["path", "label"]) == [{"path": "x.png", "label": ""}]


def test_lines_are_those_of_the_file(tmp_path):
    (tmp_path / "a.csv").write_text("path\n\nx.png\n,\ny.png\n")
    assert [row.line for row in read_table(tmp_path / "a.csv", ["path"])] == [3, 5]


def test_a_column_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("path,label,Label\nx.png,a,b\n")
    with pytest.raises(Mistake, match=r"a\.csv has the column label 2 times"):
        read_table(tmp_path / "a.csv", ["path", "label"])


def test_forms_that_spreadsheets_save(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("path\tlabel\r\nMüller.png\ta\r\n".encode("utf-16"))  # "Unicode text"
    assert read_table(path, ["path", "label"]) == [{"path": "Müller.png", "label": "a"}]
    path.write_text("sep=;\nPatient ID;label\n5;a\n")
    assert read_table(path, ["patient_id"]) == [{"patient_id": "5"}]
    path.write_bytes("path\nMüller.png\n".encode("latin-1"))
    with pytest.raises(Mistake, match="save it as UTF-8"):
        read_table(path, ["path"])


def test_numbers_of_a_workbook_are_as_they_are_seen(tmp_path):
    book = pytest.importorskip("openpyxl").Workbook()
    for row in (["id", "label"], [7, "a"], [7.0, "#N/A"], ["007", None], [1.5, "c"], ["x", "y"]):
        book.active.append(row)
    book.active["A2"].number_format = "000"
    book.save(tmp_path / "a.xlsx")
    rows = read_table(tmp_path / "a.xlsx", ["id", "label"])
    assert [row["id"] for row in rows] == ["007", "7", "007", "1.5", "x"]
    assert [row["label"] for row in rows] == ["a", "", "", "c", "y"]
