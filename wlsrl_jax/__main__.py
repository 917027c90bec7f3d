"""The command ``wlsrl``: a verb, then its flags. No verb's module is loaded before it is named."""

from __future__ import annotations

import sys
from types import ModuleType

import wlsrl_jax
from wlsrl_jax.runtime import start

VERBS = {
    "train": ("main", "train a network, or resume a run; report on it at its end"),
    "evaluate": ("evaluate.__main__", "test a finished run, on another data set too"),
    "report": ("report.__main__", "report.html of a finished run; several runs compared"),
    "card": ("report.model_card", "the model card of a finished run"),
    "predict": ("predict.__main__", "probabilities of image files"),
    "uncertainty": ("predict.uncertainty", "how uncertain predictions are; what referring brings"),
    "explain": ("explain.__main__", "maps of what speaks for a class, and their faithfulness"),
    "pointing": ("explain.pointing", "how often such a map finds the lesion of a phantom"),
    "demo": ("predict.demo", "a page in the browser that grades an image"),
    "export": ("export.__main__", "a model as one file that runs without this package"),
    "pack": ("export.pack", "a finished run as a small folder to give away"),
    "download": ("data.published.download", "fetch a published data set, or say where it is"),
    "audit": ("data.audit.__main__", "what is wrong with a folder of images"),
    "prepare": ("data.prepare.__main__", "a data set made ready for training"),
    "steps": ("data.prepare.steps_sheet", "images before and after the steps of prepare"),
    "phantoms": ("data.phantoms.source", "a sheet of drawn images with known lesions"),
    "fields": ("training.fields_table", "every field of a config: default, range, meaning"),
    "summary": ("models.summary", "shapes, parameters and FLOPs of a network"),
    "doctor": ("report.doctor", "what this installation has and lacks, to paste into an issue"),
}
"""Verb -> its module, with ``make_parser()`` and ``main(argv)``, and what it is for."""
STOPPABLE = ("train", "evaluate")
"""Verbs that save themselves when they are asked to stop."""
HELP = """usage: wlsrl VERB [FLAGS]

Grading of retinal disease from images: data, training, evidence, prediction.

{verbs}

wlsrl VERB --help                  the flags of a verb
wlsrl --version                    the version
wlsrl --print-completion=SHELL     completion for bash, zsh or fish, to be sourced; needs shtab

Research use only; not a medical device, not for decisions about patients.
"""


def main() -> None:
    """Runs the verb that the command line names, and ends the process with its exit status."""
    start.begin()
    verb, *arguments = sys.argv[1:] or [""]
    if verb in STOPPABLE:
        from wlsrl_jax.runtime.prelude import begin_run

        begin_run()  # before anything that takes time to import
    from wlsrl_jax import cli

    if verb in VERBS:
        sys.argv = [f"wlsrl {verb}", *arguments]  # as a run remembers its command
        cli.run_command(load(verb).main, arguments)
    cli.run_command(lambda argv: _without_verb(verb, arguments))


def load(verb: str) -> ModuleType:
    """Imports the module of a verb."""
    import importlib

    return importlib.import_module(f"wlsrl_jax.{VERBS[verb][0]}")


def _without_verb(flag: str, arguments: list[str]) -> None:
    name, equals, value = flag.partition("=")
    if name in ("-h", "--help"):
        lines = (f"  {verb:<12} {line}" for verb, (_, line) in VERBS.items())
        print(HELP.format(verbs="\n".join(lines)), end="")
    elif name == "--version":
        print(f"wlsrl_jax {wlsrl_jax.__version__}")
    elif name == "--print-completion":
        print(completion(value if equals else "".join(arguments[:1])))
    else:
        import difflib

        from wlsrl_jax.files import Mistake

        near = difflib.get_close_matches(name, VERBS, n=1)
        raise Mistake(
            (f"there is no verb {flag!r}" if flag else "a verb is needed")
            + (f"; did you mean {near[0]}?" if near else "")
            + " (wlsrl --help lists them)"
        )


def completion(shell: str) -> str:
    """Makes the completion of verbs, flags and their values for a shell.

    Args:
      shell: "bash", "zsh", "fish" or "tcsh".

    Returns:
      A script to be sourced.

    Raises:
      Mistake: for another shell, or without shtab.
    """
    import argparse

    from wlsrl_jax import cli
    from wlsrl_jax.files import Mistake

    try:
        import shtab
    except ImportError:
        raise Mistake("--print-completion needs shtab: pip install shtab.") from None
    if shell not in shtab.SUPPORTED_SHELLS:
        raise Mistake(f"--print-completion={shell}: use {', '.join(shtab.SUPPORTED_SHELLS)}.")
    parser = argparse.ArgumentParser(prog="wlsrl")
    verbs = parser.add_subparsers()
    for verb, (_, line) in VERBS.items():
        own = load(verb).make_parser()
        for action in own._actions:
            if action.type in cli.PATH_TYPES:
                folder = action.type is cli.output_folder or action.dest.endswith("dir")
                action.complete = shtab.DIRECTORY if folder else shtab.FILE
        verbs.add_parser(verb, help=line, parents=[own], add_help=False)
    return shtab.complete(parser, shell)


if __name__ == "__main__":
    main()
