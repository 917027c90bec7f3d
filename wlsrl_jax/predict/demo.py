"""A page in the browser: drop an image, see what a run says about it and where it looked.

    wlsrl demo [--workdir=RUN] [--port=7860]

Served by Gradio on this machine only (127.0.0.1), without analytics, and with nothing fetched from
elsewhere, so that it works where there is no network. What is dropped lies in a temporary folder
until the server ends, ten minutes at the most. Without ``--workdir``, the model that comes with the
package answers. Research use only.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from wlsrl_jax import cli
from wlsrl_jax.data.images.frames import count_images
from wlsrl_jax.data.images.limits import MAX_BYTES, BadImageError
from wlsrl_jax.data.images.listing import Item
from wlsrl_jax.data.images.set_range import add_flag, parse_flag
from wlsrl_jax.explain.class_maps import grad_cam
from wlsrl_jax.explain.overlay import enlarged_overlay
from wlsrl_jax.files import Mistake
from wlsrl_jax.html.markdown import escape
from wlsrl_jax.runs.input import (
    QUALITY_CHECKS,
    InputSpec,
    add_quality_flag,
    input_spec,
    read_input,
)
from wlsrl_jax.runs.open import TrainedRun, introduction, open_run
from wlsrl_jax.runs.shipped import DEFAULT
from wlsrl_jax.tasks import MODALITIES

DISCLAIMER = "Research use only; not a medical device, not for decisions about patients."
_KEPT_SECONDS = 600  # what was dropped


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the page shows.

    Attributes:
      probabilities: task -> class -> probability, as ``predict`` gives them.
      maps: task -> uint8 ``[H, W, 3]``, what speaks for the likeliest class, over the image.
      warning: why the picture looks like one of the other modality, or cannot be graded, or "".
      frames: of the file; more than 1 in a volume.
    """

    probabilities: dict[str, dict[str, float]]
    maps: dict[str, np.ndarray]
    warning: str
    frames: int


def make_analysis(
    run: TrainedRun, pixel_bits: str = "", quality_check: str = QUALITY_CHECKS[0]
) -> Callable[[Path, int], Answer]:
    """Compiles a run for one image.

    Args:
      run: the run.
      pixel_bits: value of ``--pixel_bits``.
      quality_check: of ``read_input``.

    Returns:
      Function of (file, number from 1 of the frame in a volume) that raises
      ``BadImageError`` for a file that cannot be used.
    """
    spec, predict = input_spec(run), run.predictor()

    @functools.lru_cache(maxsize=8)  # of a volume that is looked through
    def spec_of(path: str, frames: int, changed: int) -> InputSpec:
        """A file is a set of its own where nothing else tells the range of its pixels."""
        numbers = range(1, frames + 1) if frames > 1 else [0]
        return spec.for_images([Item(path, n) for n in numbers], pixel_bits)

    def analyse(path: Path, frame: int) -> Answer:
        frames = count_images(path)
        if not 1 <= frame <= frames:
            raise BadImageError(f"there is no frame {frame}; this file has {frames}")
        try:
            whole = spec_of(str(path), frames, path.stat().st_mtime_ns)
        except Mistake as error:
            raise BadImageError(str(error)) from None
        item = Item(str(path), frame if frames > 1 else 0)
        found = read_input(item, whole, quality_check)
        image = found.image[None]
        output = predict(jnp.asarray(image))
        probabilities, maps = {}, {}
        for task in run.tasks:
            values = np.asarray(output[task.name])[0].tolist()
            probabilities[task.name] = dict(zip(task.classes, values, strict=True))
            shown = np.asarray([np.argmax(values)])
            heat = grad_cam(run.model, run.variables, image, task.name, shown)["fused"][0]
            maps[task.name] = enlarged_overlay(found.image, heat)
        told = [
            found.flaw and f"this image: {found.flaw}",
            found.warning and f"this image {found.warning}",
        ]
        warning = " ".join(f"Warning: {line}." for line in told if line)
        return Answer(probabilities, maps, warning, frames)

    return analyse


def import_gradio() -> Any:
    """Imports Gradio with its analytics switched off.

    Raises:
      Mistake: if it is not installed, with the command.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        return importlib.import_module("gradio")
    except ImportError:
        raise Mistake("the page needs Gradio: pip install 'wlsrl_jax[demo]'") from None


def build_page(
    run: TrainedRun, pixel_bits: str = "", quality_check: str = QUALITY_CHECKS[0]
) -> Any:
    """Lays out the page.

    Args:
      run: the run.
      pixel_bits: value of ``--pixel_bits``.
      quality_check: of ``read_input``.

    Returns:
      ``gradio.Blocks``, not yet served.

    Raises:
      Mistake: if Gradio is not installed.
    """
    gr = import_gradio()
    analyse = make_analysis(run, pixel_bits, quality_check)
    kind = MODALITIES[run.modality].noun

    def show(path: str | None, frame: float | None) -> Iterator[list[Any]]:
        nothing = [None for _ in run.tasks for _ in range(2)]
        yield ["", *nothing]  # at once: an old answer never stands below a new question
        if path is None:
            return
        if frame is None or frame != int(frame):
            yield ["### Type the number of a frame.", *nothing]
            return
        try:
            answer = analyse(Path(path), int(frame))
        except BadImageError as error:
            yield [f"### This file cannot be used: {escape(error)}", *nothing]
            return
        shown: list[Any] = [f"### {escape(answer.warning)}" if answer.warning else ""]
        for task in run.tasks:
            shown += [answer.probabilities[task.name], answer.maps[task.name]]
        yield shown

    def show_file(path: str | None) -> Iterator[list[Any]]:
        frames = 1
        with contextlib.suppress(BadImageError):  # which the answer will tell
            frames = count_images(Path(path)) if path else 1
        # Only a new file sets the box: what is typed is never taken back.
        box = gr.Number(1, visible=frames > 1, label=f"Frame, 1 to {frames}")
        for shown in show(path, 1):
            yield [box, *shown]
            box = gr.skip()

    # Gradio keeps a file until the page's owner lets go of it, or for so long.
    with gr.Blocks(
        title="wlsrl_jax", analytics_enabled=False, delete_cache=(60, _KEPT_SECONDS)
    ) as page:
        gr.Markdown(f"# Retinal grading: {kind}\n**{DISCLAIMER}**")
        if run.note:
            gr.Markdown(f"**{run.note}**")
        if line := introduction(run):
            gr.Markdown(escape(line))
        file = gr.File(label=f"Drop one {kind}", height=140, elem_id="file")
        frame = gr.Number(1, visible=False, elem_id="frame")
        outputs = [gr.Markdown(elem_id="warning")]
        with gr.Row():
            for task in run.tasks:
                with gr.Column(min_width=300):
                    outputs.append(gr.Label(label=task.name, elem_id=f"label-{task.name}"))
                    gr.Markdown("What speaks for the likeliest class:")
                    outputs.append(
                        gr.Image(
                            show_label=False,
                            alt_text=f"Map of {task.name} over the image",
                            format="png",
                            interactive=False,
                            buttons=["fullscreen"],
                            elem_id=f"map-{task.name}",
                        )
                    )
        gr.Markdown(
            "The maps (LayerCAM) show where the network's evidence lies. They "
            "are no outlines of lesions."
        )
        options = {
            "api_visibility": "private",
            "show_progress": "minimal",
            "trigger_mode": "always_last",  # what is typed while an answer is on its way counts
            "concurrency_id": "answers",  # one by one: the last question has the last answer
            "concurrency_limit": 1,
        }
        file.change(show_file, file, [frame, *outputs], **options)
        frame.input(show, [file, frame], outputs, **options)
    return page


def check_port(port: int) -> None:
    """Tries a port before the model is opened.

    Raises:
      Mistake: if it is taken, or not ours to take.
    """
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError as error:
            raise Mistake(f"--port={port}: {error.strerror}; choose another.") from None


def serve(
    run: TrainedRun, port: int, pixel_bits: str = "", quality_check: str = QUALITY_CHECKS[0]
) -> None:
    """Serves the page on this machine until Ctrl-C.

    Args:
      run: the run.
      port: to listen on.
      pixel_bits: value of ``--pixel_bits``.
      quality_check: of ``read_input``.

    Raises:
      Mistake: if Gradio is not installed, or the port is taken.
    """
    gr = import_gradio()
    page = build_page(run, pixel_bits, quality_check)
    try:
        page.launch(
            server_name="127.0.0.1",
            server_port=port,
            prevent_thread_lock=True,
            share=False,
            ssr_mode=False,
            enable_monitoring=False,
            max_file_size=MAX_BYTES,
            footer_links=[],
            quiet=True,
            theme=gr.themes.Default(  # its own fonts would come from Google
                font=["ui-sans-serif", "system-ui", "sans-serif"],
                font_mono=["ui-monospace", "monospace"],
            ),
        )
    except OSError:
        raise Mistake(f"--port={port} is in use; choose another.") from None
    try:
        print(f"http://127.0.0.1:{port} (Ctrl-C ends it). {DISCLAIMER}", flush=True)
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("ended", flush=True)
    finally:
        page.close(verbose=False)


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser(
        "demo",
        description=f"A page in the browser that grades an image. {DISCLAIMER}",
    )
    cli.add_workdir(parser, DEFAULT)
    parser.add_argument(
        "--port", type=cli.number(1, 65535), default=7860,
        help="of this machine; default: %(default)s",
    )  # fmt: skip
    add_flag(parser)
    add_quality_flag(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = make_parser().parse_args(argv)
    parse_flag(args.pixel_bits)  # a mistake in it is told now
    import_gradio()
    check_port(args.port)
    run = open_run(args.workdir)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the folder is emptied
    with tempfile.TemporaryDirectory(prefix="wlsrl_jax_demo_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        serve(run, args.port, args.pixel_bits, args.quality_check)
    return 0
