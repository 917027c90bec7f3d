"""Progress and metrics of a run: terminal, JSON lines, TensorBoard event files.

Of several processes only process 0 writes and speaks.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from wlsrl_jax.cli import console as make_console
from wlsrl_jax.files import keep_lines, plain
from wlsrl_jax.runtime.processes import is_primary
from wlsrl_jax.tasks import PHANTOM_NOTE


class RunLog:
    """Writes what a person or a plot reads while a run goes on.

    Args:
      workdir: where ``metrics.jsonl`` and ``tensorboard/`` go.
      total_steps: of the whole run.
      step: already done; later lines of an interrupted run are dropped.
      evaluated: steps whose evaluation is done; the others' lines come anew.
      is_phantom: mark everything as a rehearsal.
    """

    def __init__(
        self, workdir: Path, total_steps: int, step: int, evaluated: set[int], is_phantom: bool
    ) -> None:
        self.total_steps, self.is_phantom = total_steps, is_phantom
        self._primary = is_primary()
        if self._primary:
            keep_lines(
                workdir / "metrics.jsonl",
                lambda line: (
                    line["step"] <= step and (line["kind"] == "train" or line["step"] in evaluated)
                ),
            )
        self._workdir, self._first_step = workdir, step
        self._terminal = self._primary and sys.stdout.isatty()
        self._console = make_console()
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._terminal,
        )
        self._bar = self._progress.add_task("compiling", total=total_steps, completed=step)
        self._progress.start()
        self._start, self._start_step = time.monotonic(), step

    @functools.cached_property
    def _file(self) -> Any:
        return (self._workdir / "metrics.jsonl").open("a", encoding="utf-8")

    @functools.cached_property
    def _events(self) -> Any:
        """Opened with the first record: its import takes time, with PyTorch installed a lot."""
        from tensorboardX import SummaryWriter

        step = self._first_step
        writer = SummaryWriter(str(self._workdir / "tensorboard"), purge_step=step + 1)
        if self.is_phantom:
            writer.add_text("note", PHANTOM_NOTE, step)
        return writer

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
        for opened in ("_events", "_file"):
            if opened in self.__dict__:
                with contextlib.suppress(*([OSError] if error else [])):  # a full disk was told of
                    getattr(self, opened).close()

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._terminal:
            self._console.print(text, soft_wrap=True)
        elif self._primary:
            print(text, flush=True)

    def first_step_done(self, step: int) -> None:
        """Starts the clock of the ETA, compilation excluded."""
        self.say(f"first step done (step {step}), everything is compiled")
        self._start, self._start_step = time.monotonic(), step

    def train(self, step: int, values: Mapping[str, float], images_per_second: float) -> None:
        """Records the mean metrics of the last steps."""
        done = max(step - self._start_step, 1)
        left = (time.monotonic() - self._start) / done * (self.total_steps - step)
        self._record("train", step, {**values, "images_per_second": images_per_second})
        text = f"loss {values['loss']:.4f}  {images_per_second:.0f} images/s"
        if skipped := values.get("skipped_steps"):
            text += f"  {skipped:.0f} steps skipped, not finite"
        self._progress.update(self._bar, completed=step, description=text)
        if self._primary and not self._terminal:
            print(f"step {step}/{self.total_steps}  {text}  ETA {left:.0f} s", flush=True)

    def evaluation(
        self, step: int, results: Mapping[str, Mapping[str, float | None]], score: float | None
    ) -> None:
        """Records validation metrics; None is undefined."""
        flat = {
            f"{task}/{name}": value
            for task, values in results.items()
            for name, value in values.items()
        }
        self._record("validation", step, {**flat, "score": score})
        shown = "  ".join(
            f"{task} {name} {_shown(values[name], 3)}"
            for task, values in results.items()
            for name in ("balanced_accuracy", "qwk", "auroc")
            if name in values
        )
        self.say(f"validation at step {step}: {shown}  score {_shown(score, 4)}")

    def _record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if not self._primary:
            return
        finite = plain({k: None if v is None else float(v) for k, v in values.items()})
        note = {"phantom": True} if self.is_phantom else {}
        line = {"step": step, "kind": kind, **note, **finite}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in finite.items():
            if value is not None:
                self._events.add_scalar(f"{kind}/{name}", value, step)


def _shown(value: float | None, digits: int) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"
