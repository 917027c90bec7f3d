import pytest

from wlsrl_jax.data.prepare.split_file import read_split_file
from wlsrl_jax.files import Mistake


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has: nothing"),
        ("name,split\na,train\n", "neither a manifest.json nor a CSV file.*it has: name, split"),
        ("id,split\na,holdout\n", r"line 2 \(a\): 'holdout' is not one of train, validation"),
        ("id,split\na,train\n\n,test\n", r"line 4 \(no id\)"),
        ("id,split\na,train\na,test\n", "line 3: a second row for a"),
        ("id,split,fold_1\na,train,test\n", "its folds are not fold_0 to fold_0"),
        ("id,split,fold_0\na,train\n", r"line 2 \(a\): '' is not one of"),
    ],
)
def test_wrong_files_are_named(text, message, tmp_path):
    path = tmp_path / "lists.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_split_file(path)
    assert str(path) in str(caught.value)


def test_usual_spellings_are_understood(tmp_path):
    path = tmp_path / "lists.csv"
    path.write_text("\ufeffSplit; ID\nTraining; a\nval; b\ndev; c\nTEST; d\n")
    assert read_split_file(path) == {
        "a": ("train",), "b": ("validation",), "c": ("validation",), "d": ("test",)}  # fmt: skip


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        read_split_file(tmp_path / "none.csv")
    for text in ('{"images": [{"id": "a"', "[]", '{"images": [1]}', '{"images": [{"id": "a"}]}',
                 '{"images": [{"id": 7, "split": "test"}]}', '{"images": {"a": "test"}}',
                 '{"images": [{"id": "a", "split": "val"}]}',
                 '{"images": [{"id": [], "split": ""}]}',
                 '{"images": [{"id": "a", "split": "test"}, {"id": "a", "split": "train"}]}',
                 '{"images": [{"id": "a", "split": "test", "folds": [{}]}]}'):  # fmt: skip
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(Mistake, match="^--split_file=.*is damaged.*give the manifest.json"):
            read_split_file(tmp_path / "manifest.json")


def test_an_id_may_be_a_word_for_nothing(tmp_path):
    (tmp_path / "splits.csv").write_text("id,split\nNA,train\nnull,test\n")
    assert read_split_file(tmp_path / "splits.csv") == {"NA": ("train",), "null": ("test",)}
