"""The output of prediction: a table that grows row by row and survives a kill at any moment.

Rows go to ``FILE.csv.partial``, a batch at a time, each forced to the disk. At the end that file
takes the name ``FILE.csv``, or is converted to ``FILE.parquet``: the output is whole or absent.
``FILE.csv.json`` says what the rows were made with, so that nobody goes on with something else, and
``FILE.csv.files.csv`` what each image file looked like, so that one that was replaced or repaired
since is predicted again. In CSV a name that a spreadsheet would take for a formula begins with an
apostrophe; see ``data/text/tables.py``.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from wlsrl_jax.data.images.listing import Item
from wlsrl_jax.data.text.tables import csv_text, float32_cell, original_cell, safe_cell
from wlsrl_jax.files import Mistake, differences, is_disk_full, read_json, some, write_json, writing
from wlsrl_jax.runtime.lock import HeldError, hold

SUFFIXES = (".csv", ".parquet")


class PredictionFile:
    """An output that is open for rows; begins anew or goes on where it was.

    Args:
      output: ``.csv`` or ``.parquet``.
      columns: names of the probabilities; the first column is always "path".
      identity: what the rows are made with; an output that was begun with something else is
        left alone.
      notes: more for ``FILE.csv.json``, not compared.

    Attributes:
      done: names of the images that have a row, or, once finished, are known to be bad.
      finished: whether the output is complete already; then nothing can be added.

    Raises:
      Mistake: naming what stands in the way: another kind of file, an output that was made
        otherwise, or another process that is writing it.
    """

    def __init__(
        self,
        output: Path,
        columns: Sequence[str],
        identity: Mapping[str, Any],
        notes: Mapping[str, Any],
    ) -> None:
        if output.suffix.lower() not in SUFFIXES:
            raise Mistake(f"--output={output} must end in {' or '.join(SUFFIXES)}.")
        self._output, self._columns, self._notes = output, ["path", *columns], dict(notes)
        self._identity = json.loads(json.dumps(identity))
        self._partial = output.with_name(output.name + ".partial")
        self._description = output.with_name(output.name + ".json")
        self._files_path = output.with_name(output.name + ".files.csv")
        self._lock_path = output.with_name(f".{output.name}.lock")
        self._held = contextlib.ExitStack()
        self.errors_path = output.with_suffix(".errors.csv")
        self._seen: dict[str, str] = {}
        self.done: set[str] = set()
        self._bad: list[str] = []
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            self.finished = output.exists()
            if self.finished:
                self._check_identity()
                self._partial.unlink(missing_ok=True)  # killed after the last step of a conversion
                self.done = set(_names(output))
                self._bad = [name for name, _ in _rows(self.errors_path)]
                if not self._read()["finished"]:  # killed before it said so
                    self._describe(finished=True)
                self.done.update(self._bad)
                return
            self._open()
        except OSError as error:
            if is_disk_full(error):
                raise
            raise Mistake(f"--output={output} cannot be written ({error.strerror}).") from None

    def _open(self) -> None:
        """Takes the partial file for this process and reads what is in it."""
        self._take()
        try:
            if self._output.exists():  # it ended in this very moment
                raise Mistake(f"{self._output} was just finished by another process.")
            self._begin()
        except BaseException:
            self._held.close()
            raise

    def _begin(self) -> None:
        self._file = self._held.enter_context(self._partial.open("a+b"))
        self._file.seek(0, os.SEEK_END)
        if self._file.tell():
            self._check_identity()
            self._recover()
        else:
            self._describe(finished=False)
            self._write([self._columns])
        self._errors = self.errors_path.open("w", newline="", encoding="utf-8")
        csv.writer(self._errors).writerow(["path", "reason"])
        self._files = self._files_path.open("a+b")
        if size := self._files.seek(0, os.SEEK_END):
            self._files.seek(size - 1)
            if self._files.read(1) != b"\n":  # cut off by a kill
                self._files.write(b"\n")

    def _take(self) -> None:
        try:
            self._held.enter_context(hold(self._lock_path, remove=True))
        except HeldError:
            raise Mistake(f"{self._output} is being written by another process.") from None

    def _check_identity(self) -> None:
        here = self._output if self._output.exists() else self._partial
        if not self._description.exists():
            raise Mistake(
                f"{here} exists and {self._description}, which says how it was made, does not. "
                "Use another --output, or delete it."
            )
        made_with = self._read().get("made_with", {})
        differs = differences(made_with, self._identity, "  ")
        if differs:
            raise Mistake(
                f"{here} was made otherwise:\n"
                + "\n".join(some(differs))
                + "\nUse another --output, or the same run and flags, or delete it."
            )

    def _read(self) -> dict[str, Any]:
        return read_json(self._description, remedy="delete the output, or name another --output")

    def _describe(self, *, finished: bool) -> None:
        counts = {"images": len(self.done), "bad_files": len(self._bad)} if finished else {}
        write_json(
            self._description,
            {**self._notes, "finished": finished, **counts, "made_with": self._identity},
        )

    def _recover(self) -> None:
        """Reads what is there, and drops everything from the first line that is not whole."""
        self._file.seek(0)
        good = 0
        for number, line in enumerate(self._file):
            row = _parse(line)
            if number == 0 and line.endswith(b"\n") and row != self._columns:
                raise Mistake(f"{self._partial} has other columns; delete it.")
            if not line.endswith(b"\n") or len(row) != len(self._columns):
                break
            if number:
                self.done.add(original_cell(row[0]))
            good += len(line)
        self._file.truncate(good)
        if good == 0:
            self._write([self._columns])

    def _write(self, rows: Sequence[Sequence[str]]) -> None:
        _append(self._file, self._partial, csv_text(rows).encode("utf-8"))

    def changed(self, items: Iterable[Item]) -> list[str]:
        """Names of images that are dealt with and whose files are not what they were then.

        Args:
          items: the images of this command.
        """
        then = {row[0]: row[1] for row in _rows(self._files_path) if len(row) == 2}
        return [
            item.name
            for item in items
            if item.name in self.done and then.get(item.name) != _look(item.path)
        ]

    def redo(self, names: Sequence[str]) -> None:
        """Drops the rows of images, so that they are predicted again; opens a finished output.

        Args:
          names: of images.
        """
        if self.finished:
            self._reopen()
        self.done.difference_update(names)
        self._file.seek(0)
        lines = [
            line
            for k, line in enumerate(self._file)
            if not k or original_cell(_parse(line)[0]) in self.done
        ]
        # In its place, for the lock is on it; what a kill leaves out is predicted again.
        self._file.truncate(0)
        _append(self._file, self._partial, b"".join(lines))

    def _reopen(self) -> None:
        self._take()
        try:
            self._describe(finished=False)
            if self._output.suffix.lower() == ".parquet":
                temporary = self._partial.with_name(self._partial.name + ".tmp")
                with writing(temporary):
                    _from_parquet(self._output, temporary)
                os.replace(temporary, self._partial)
                self._output.unlink()
            else:
                os.replace(self._output, self._partial)
            self.finished, self.done, self._bad = False, set(), []
            self._begin()
        except BaseException:
            self._held.close()
            raise

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Hands images on and looks at each file before it is read."""
        for item in items:
            self._seen[item.name] = _look(item.path)
            yield item

    def _note(self, names: Sequence[str]) -> None:
        """Keeps what files looked like, before there are rows made from them."""
        known = [[name, self._seen.pop(name)] for name in names if name in self._seen]
        header = b"" if self._files.seek(0, os.SEEK_END) else b"path,size and times\n"
        _append(self._files, self._files_path, header + csv_text(known).encode("utf-8"))

    def add(self, names: Sequence[str], probabilities: Sequence[Sequence[float]]) -> None:
        """Appends rows and forces them to the disk.

        Args:
          names: ``[N]`` of images.
          probabilities: ``[N, columns]``.
        """
        self._note(names)
        self._write([[n, *map(float32_cell, p)] for n, p in zip(names, probabilities, strict=True)])
        self.done.update(names)

    @property
    def bad_count(self) -> int:
        """Images that cannot have a row, as ``FILE.errors.csv`` lists them."""
        return len(self._bad)

    def bad(self, name: str, reason: str) -> None:
        """Records an image that has no row, in ``FILE.errors.csv``."""
        self._note([name])
        self._bad.append(name)
        with writing(self.errors_path):
            csv.writer(self._errors).writerow([safe_cell(name), safe_cell(reason)])
            self._errors.flush()

    def finish(self) -> None:
        """Gives the output its name."""
        with writing(self.errors_path):
            self._errors.close()
        if self._output.suffix.lower() == ".parquet":
            _to_parquet(self._partial, self._output, {**self._notes, "made_with": self._identity})
            self._partial.unlink()
        else:
            os.replace(self._partial, self._output)
        _sync_directory(self._output.parent)
        self._describe(finished=True)
        self.finished = True

    def __enter__(self) -> PredictionFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in ("_errors", "_file", "_files"):
            if name in self.__dict__:
                # What a full disk did not take was told of; it must not hide that.
                with contextlib.suppress(*([OSError] if error else [])):
                    self.__dict__[name].close()
        if "_errors" in self.__dict__ and not self._bad:
            self.errors_path.unlink(missing_ok=True)
        self._held.close()


def _parse(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode("utf-8").rstrip("\n")]), [])
    except (UnicodeDecodeError, csv.Error):
        return []


def _rows(path: Path) -> Iterator[list[str]]:
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for row in list(csv.reader(file))[1:]:
                yield [original_cell(cell) for cell in row]


def _append(file: BinaryIO, path: Path, content: bytes) -> None:
    """Writes to the end of an open file, and forces it to the disk."""
    with writing(path):
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _look(path: str) -> str:
    """Size and times of a file, as a word; "" where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"


def _names(output: Path) -> Iterator[str]:
    """The images of a finished output."""
    if output.suffix.lower() == ".csv":
        with output.open(newline="", encoding="utf-8") as file:
            yield from (original_cell(row["path"]) for row in csv.DictReader(file))
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(output) as file:
        for batch in file.iter_batches(columns=["path"]):
            yield from batch.column(0).to_pylist()


def _to_parquet(source: Path, target: Path, notes: Mapping[str, Any]) -> None:
    """Converts a CSV file block by block; the probabilities become float32."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    with source.open(newline="", encoding="utf-8") as file:
        columns = next(csv.reader(file))
    schema = pa.schema([("path", pa.string()), *((c, pa.float32()) for c in columns[1:])])
    convert = pyarrow.csv.ConvertOptions(column_types=schema, strings_can_be_null=False)
    temporary = target.with_name(target.name + ".tmp")
    described = schema.with_metadata({"wlsrl_jax": json.dumps(notes)})
    try:
        with writing(target):
            with (
                pyarrow.csv.open_csv(source, convert_options=convert) as reader,
                pq.ParquetWriter(temporary, described) as writer,
            ):
                for batch in reader:
                    names = [original_cell(name) for name in batch.column(0).to_pylist()]
                    batch = batch.set_column(0, "path", pa.array(names, pa.string())).cast(schema)
                    writer.write_batch(batch.replace_schema_metadata(described.metadata))
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _from_parquet(source: Path, target: Path) -> None:
    """Writes a finished Parquet file as the CSV that it was made from."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file, target.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(file.schema_arrow.names)
        for batch in file.iter_batches():
            for name, *values in zip(
                *(column.to_pylist() for column in batch.columns), strict=True
            ):
                writer.writerow([safe_cell(name), *map(float32_cell, values)])
        text.flush()
        os.fsync(text.fileno())


def _sync_directory(path: Path) -> None:
    """Makes a renaming last; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
