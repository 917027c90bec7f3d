"""What all command lines share: how one is run and ends, its paths and numbers, its tables."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console as RichConsole
from rich.table import Table as RichTable
from rich.text import Text

from wlsrl_jax.files import (
    Mistake,
    cache_directory,
    check_output_file,
    check_output_folder,
    local_path,
)
from wlsrl_jax.runtime import interrupt
from wlsrl_jax.runtime.ending import EXIT_MISTAKE, EXIT_PIPE, nobody_reads, what_to_tell
from wlsrl_jax.runtime.start import EXIT_INTERRUPTED

Main = Callable[[Sequence[str] | None], int | None]


def status_of(main: Main, argv: Sequence[str] | None = None) -> int:
    """Runs a command; a mistake of the user's is one line on standard error.

    Args:
      main: parses the arguments, does the work and returns the exit status, None for 0.
      argv: the arguments; None: those of the process.

    Returns:
      The exit status: ``EXIT_MISTAKE``, ``EXIT_INTERRUPTED`` after Ctrl-C, ``EXIT_PIPE``, or the
      command's own.

    Raises:
      Exception: what is no mistake of the user's, for its traceback.
    """
    try:
        return main(argv) or 0
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if interrupt.asked():  # what a library made of it
            return _interrupted()
        if isinstance(error, BrokenPipeError) and nobody_reads():
            _drop_output()
            return EXIT_PIPE
        message = what_to_tell(error)
        if message is None:
            raise
        if os.environ.get("WLSRL_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {message}", file=sys.stderr)
        return EXIT_MISTAKE


def run_command(main: Main, argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command, on the arguments of the process if none are given, and ends the process.

    See ``status_of``.
    """
    interrupt.install()
    prepare_streams()
    for noisy in ("absl", "orbax"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    keep_compiled()
    try:
        status = status_of(main, argv)
    except SystemExit as end:  # of argparse: help, or a wrong flag
        status = end.code if isinstance(end.code, int) else EXIT_MISTAKE
    except KeyboardInterrupt:  # while an error was being told
        status = _interrupted()
    end_command(status)


def end_command(status: int) -> NoReturn:
    """Ends the process, its output whole on its way."""
    interrupt.settle()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        status = EXIT_PIPE
    except OSError as error:
        print(f"error: standard output cannot be written: {error.strerror}", file=sys.stderr)
        _drop_output()
        status = EXIT_MISTAKE
    if status in (EXIT_INTERRUPTED, EXIT_PIPE):
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(status)  # threads that are busy are not waited for
    sys.exit(status)


def prepare_streams() -> None:
    """Lets every text be printed in any encoding, escaped where it lacks a character."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed by whoever started the command
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def keep_compiled() -> None:
    """Lets JAX keep what it compiles, under the user's cache directory."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = os.environ["JAX_COMPILATION_CACHE_DIR"] = cache_directory("xla")
        if "jax" in sys.modules:  # it has read the environment
            sys.modules["jax"].config.update("jax_compilation_cache_dir", folder)


def _interrupted() -> int:
    interrupt.say("interrupted; the same command starts it again")
    return EXIT_INTERRUPTED


def _drop_output() -> None:
    """What is left in the buffer goes nowhere, and so raises nothing more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def checked(check: Callable[[], Any]) -> Any:
    """What a flag is parsed to; a mistake in it is argparse's to tell, with the flag's name."""
    try:
        return check()
    except Mistake as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def path(text: str) -> Path:
    """A path flag: "~" is the home directory, an address such as gs://... is refused."""
    return checked(lambda: local_path(text))


def path_text(text: str) -> str:
    """A file, folder or pattern as text, checked like ``path``."""
    return str(path(text))


def path_list(text: str) -> tuple[Path, ...]:
    """Paths with commas between them."""
    return tuple(path(part) for part in text.split(",") if part)


def output_file(text: str) -> Path:
    """A path flag for a file that will be written: refused where that cannot be."""
    return checked(lambda: check_output_file(local_path(text)))


def output_folder(text: str) -> Path:
    """A path flag for a folder that will be written: refused where that cannot be."""
    return checked(lambda: check_output_folder(local_path(text)))


class Parser(argparse.ArgumentParser):
    """The parser of a verb; a wrong flag is told in one line, as every other mistake.

    Args:
      verb: of ``wlsrl``.
      description: a sentence.
      epilog: what stands below the flags.
    """

    def __init__(self, verb: str, description: str, epilog: str = "") -> None:
        super().__init__(prog=f"wlsrl {verb}", description=description, epilog=epilog or None)

    def error(self, message: str) -> NoReturn:
        """Ends the command."""
        self.exit(EXIT_MISTAKE, f"error: {message} (--help shows the flags)\n")


PATH_TYPES = (path, path_text, path_list, output_file, output_folder)
"""What a flag that holds a path is parsed with; nothing else."""


def number(least: int, most: int | None = None) -> Callable[[str], int]:
    """A flag that is a whole number in a range.

    Args:
      least: that is allowed.
      most: that is allowed; None: any.

    Returns:
      The ``type`` of the flag.
    """
    allowed = f"{least} or more" if most is None else f"{least} to {most}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, {allowed}")
        return value

    return parse


def add_images(parser: argparse.ArgumentParser, nargs: str = "+") -> None:
    """Adds the images that a command is given, its only arguments without a name."""
    parser.add_argument(
        "images", nargs=nargs, type=path_text, metavar="IMAGE",
        help="files, folders, patterns, CSV lists with a column path",
    )  # fmt: skip


def add_workdir(
    parser: argparse.ArgumentParser,
    default: Path | None = None,
    *,
    of: str = "a finished run, or pretrained:octdl",
) -> None:
    """Adds ``--workdir``, required if it has no default."""
    shown = "" if default is None else "; default: %(default)s"
    parser.add_argument(
        "--workdir", type=path, default=default, required=default is None, help=f"of {of}{shown}"
    )


def add_data_dir(parser: argparse.ArgumentParser, default: str = "the run's own") -> None:
    """Adds ``--data_dir``."""
    parser.add_argument("--data_dir", type=path_text, help=f"of prepared data; default: {default}")


def add_split(
    parser: argparse.ArgumentParser,
    choices: Sequence[str] = ("train", "validation", "test"),
    default: str | None = "test",
    of: str = "the run's data",
) -> None:
    """Adds ``--split``."""
    shown = "" if default is None else "; default: %(default)s"
    parser.add_argument("--split", choices=choices, default=default, help=f"of {of}{shown}")


def add_choice(parser: argparse.ArgumentParser, flag: str, choices: Sequence[str], of: str) -> None:
    """Adds a flag with one of several values, the first of which is the default."""
    parser.add_argument(
        flag, choices=choices, default=choices[0], help=f"{of}; default: %(default)s"
    )


def add_limit(parser: argparse.ArgumentParser, default: int) -> None:
    """Adds ``--limit``."""
    parser.add_argument(
        "--limit", type=number(1), default=default, help="images of the split; default: %(default)s"
    )


def add_batch_size(parser: argparse.ArgumentParser, default: int) -> None:
    """Adds ``--batch_size``."""
    parser.add_argument(
        "--batch_size", type=number(1), default=default,
        help="images at a time; default: %(default)s",
    )  # fmt: skip


class Table(RichTable):
    """A table whose title and cells are shown as they are: "[wet]" is a class, not markup."""

    def __init__(self, *, title: str = "") -> None:
        super().__init__(title=Text(title))

    def add_column(self, header: Any = "", *args: Any, **options: Any) -> None:
        """Adds a column."""
        super().add_column(Text(header), *args, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Adds a row of texts."""
        super().add_row(*map(Text, cells), **options)


class Console(RichConsole):
    """A console of ``console``."""

    def on_broken_pipe(self) -> None:
        """What rich calls where nobody reads."""
        raise BrokenPipeError  # ``status_of`` ends the command; rich would give status 1


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that prints text as it is: no markup, no :emoji:, no colours for numbers."""
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def print_table(table: Table) -> None:
    """Prints a table; a log has no width, so there it is not folded to 80 columns."""
    screen = console()
    (screen if screen.is_terminal else console(width=140)).print(table)
