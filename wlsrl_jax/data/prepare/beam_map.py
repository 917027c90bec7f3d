"""Reading and resizing, the two costly steps of a preparation, on a cluster with Apache Beam.

Beam maps and nothing else: groups, splits, records and the manifest are made where the command
runs, so that every byte is the same as without Beam. TFDS can write through Beam as well, and
needs no TensorFlow for it (tensorflow-datasets 4.9.10, apache-beam 2.77). Its
``GeneratorBasedBuilder`` then cuts a split into files by another rule, ranges of keys instead of
counts, so that files differ. Its ``ShardBasedBuilder`` writes the same files, but a job a split
and a worker a file: most workers of a cluster would have none.

Work travels through a folder beside the prepared data, so the job itself stays small however many
images there are, and results are read one part at a time. Workers need this package, in the same
versions, and must see the source and ``--data_dir`` under the paths that this process sees.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from wlsrl_jax.data.audit.inspect import Mapper, SourceFile
from wlsrl_jax.data.audit.look import Fingerprint
from wlsrl_jax.data.images.read_image import Extent
from wlsrl_jax.files import Mistake

_PART = 64  # images; a few MB of results
_SHARED = "is --data_dir on a file system that every worker sees under the same path?"


@dataclasses.dataclass(frozen=True)
class _Refused:
    """A ``ValueError`` of the mapped function: doing it again would not help."""

    message: str


@contextlib.contextmanager
def beam_mapper(runner: str, options: str, staging: Path) -> Iterator[Mapper]:
    """Gives a mapper that runs as a Beam job; see ``inspect.Mapper``.

    Args:
      runner: name of a Beam runner, such as "DirectRunner", or a class with its module.
      options: Beam's pipeline options as on a command line, "--region=x --max_num_workers=8".
      staging: folder that every worker sees; what is in it is deleted, before and after.

    Yields:
      The mapper.

    Raises:
      Mistake: naming the flag, if Beam is missing, or does not know the runner or an option.
    """
    flags = _check(runner, options)
    try:
        yield functools.partial(_run, runner, flags, staging.absolute())
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check(runner: str, options: str) -> list[str]:
    """Splits the options; ends at what Beam would stumble over after minutes."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.runner import create_runner
    except ImportError:
        raise Mistake("--beam_runner needs Apache Beam: pip install 'wlsrl_jax[beam]'") from None
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError, TypeError) as error:
        raise Mistake(f"--beam_runner={runner} cannot be used: {error}") from None
    flags = shlex.split(options)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            # Runners of other languages have options that are unknown here: they are passed on.
            PipelineOptions(flags).get_all_options(retain_unknown_options=True)
    except SystemExit:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise Mistake(f"--beam_options={options!r}: {reason}") from None
    return flags


def _run(
    runner: str,
    flags: Sequence[str],
    staging: Path,
    function: Callable[[Any], Any],
    files: Sequence[SourceFile],
    /,
) -> Iterator[Any]:
    """Maps now, all of it; what is returned reads the results."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    staging.mkdir(parents=True)
    starts = range(0, len(files), _PART)
    for part, start in enumerate(starts):
        _save(_todo(staging, part), list(files[start : start + _PART]))
    try:
        with beam.Pipeline(runner=runner, options=PipelineOptions(list(flags))) as pipeline:
            _ = (
                pipeline
                | "Parts" >> beam.Create(list(range(len(starts))))
                | "Spread" >> beam.Reshuffle()  # else one worker would keep them all
                | "Map" >> beam.Map(_work, function, staging)
            )
    except Exception as error:  # runners raise many kinds
        raise Mistake(f"the job of --beam_runner={runner} failed: {error}") from error
    return _results(staging, len(starts))


_KINDS = {kind.__name__: kind for kind in (SourceFile, Fingerprint, Extent, _Refused)}


def _pack(content: Any) -> bytes:
    """MessagePack, for what lies in a folder that others share is not to be unpickled."""

    def plain(value: Any) -> dict[str, Any]:
        if isinstance(value, np.ndarray):
            return {"kind": "array", "of": [value.dtype.str, value.shape, value.tobytes()]}
        fields = [getattr(value, f.name) for f in dataclasses.fields(value)]
        return {"kind": type(value).__name__, "of": fields}

    return msgpack.packb(content, default=plain)


def _unpack(data: bytes) -> Any:
    def made(value: dict[str, Any]) -> Any:
        if value["kind"] == "array":
            dtype, shape, content = value["of"]
            return np.frombuffer(content, dtype).reshape(shape)
        return _KINDS[value["kind"]](*value["of"])

    return msgpack.unpackb(data, object_hook=made, use_list=False)


def _todo(staging: Path, part: int) -> Path:
    return staging / f"{part:08d}.todo"


def _done(staging: Path, part: int) -> Path:
    return staging / f"{part:08d}.done"


def _save(path: Path, content: Any) -> None:
    """Whole or not at all; a runner may give one part to two workers, with the same result."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    temporary.write_bytes(_pack(content))
    temporary.replace(path)


def _work(part: int, function: Callable[[Any], Any], staging: Path) -> None:
    """On a worker: maps a part."""
    path = _todo(staging, part)
    try:
        files = _unpack(path.read_bytes())
    except OSError as error:
        raise RuntimeError(f"a worker cannot read {path} ({error.strerror}): {_SHARED}") from error
    _save(_done(staging, part), [_apply(function, file) for file in files])


def _apply(function: Callable[[Any], Any], file: SourceFile) -> Any:
    try:
        return function(file)
    except Mistake as error:
        return _Refused(str(error))
    except Exception as error:  # another try may help: that is the runner's to decide
        raise RuntimeError(f"{file.path}: {type(error).__name__}: {error}") from error


def _results(staging: Path, parts: int) -> Iterator[Any]:
    for part in range(parts):
        path = _done(staging, part)
        try:
            results = _unpack(path.read_bytes())
        except FileNotFoundError:
            raise Mistake(f"a worker said it wrote {path}, and it is not here: {_SHARED}") from (
                None
            )
        path.unlink()
        for result in results:
            if isinstance(result, _Refused):
                raise Mistake(result.message)
            yield result
