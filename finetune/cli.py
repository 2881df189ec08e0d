"""The command line: ``key=value`` words train; a bare first word is a sub-command."""

import shlex
import sys
from collections.abc import Callable, Sequence

from finetune import __version__
from finetune.commands import configuring, keeping, runs, use
from finetune.commands.help import HELP, NEXT
from finetune.commands.parsing import asks_for_study, compose_words
from finetune.console import say
from finetune.errors import InputError, did_you_mean

__all__ = ["commands", "run_command"]


def run_command(words: Sequence[str]) -> int:
    """Run what the words say and return an exit code.

    Raises:
        FinetuneError: With an exit code of its own.
    """
    if not words:
        sys.stdout.write(NEXT)
        return 0
    if words[0] in ("-h", "--help", "help") or _asks_for_help(words):
        sys.stdout.write(HELP.format(version=__version__))
        return 0
    if words[0] == "--version":
        say(__version__)
        return 0
    if "=" in words[0] or words[0] in ("-m", "--multirun"):
        return _train(words)
    if words[0] not in _COMMANDS:
        raise _unknown_command(words[0])
    return _COMMANDS[words[0]](list(words[1:]))


def commands(words: Sequence[str], ways_out: Sequence[str]) -> str:
    """The command that was typed with each of the ways out, ready to be pasted.

    Nothing for commands that take no ``key=value``, such as resume.

    >>> print(commands(["data.root=my set", "data.waiver=x"], ["data.duplicates=regroup"]))
    Corrected command:
      python -m finetune 'data.root=my set' data.waiver=x data.duplicates=regroup
    """
    if not ways_out or "=" not in words[-1]:
        return ""
    lines = []
    for way in (text.split("\n") for text in ways_out):
        keys = {word.partition("=")[0] for word in way}
        kept = [word for word in words if word.partition("=")[0] not in keys]
        lines.append("\n  " + shlex.join(["python", "-m", "finetune", *kept, *way]))
    return f"Corrected command{'s' if len(lines) > 1 else ''}:" + "".join(lines)


def _asks_for_help(words: Sequence[str]) -> bool:
    """Beside ``key=value`` words; the other sub-commands have a help of their own."""
    trains = "=" in words[0] or words[0] in ("plan", "-m", "--multirun")
    return trains and bool({"-h", "--help"} & set(words))


def _unknown_command(word: str) -> InputError:
    from finetune.recipes import list_recipes

    recipe = f"; to train: recipe={word}" if word in list_recipes() else ""
    return InputError(f"unknown command {word!r}{did_you_mean(word, _COMMANDS)}{recipe}; there are "
                      f"{', '.join(_COMMANDS)}, or key=value words to train")


def _train(words: Sequence[str]) -> int:
    if asks_for_study(words):
        from finetune.study.running import run_study

        run_study(words)
        return 0
    composed = compose_words(words)
    from finetune.launch import launch

    launch(composed.config, replaced=composed.replaced, overrides=list(composed.overrides))
    return 0


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "ls": configuring.ls_command, "show": configuring.show_command, "cp": configuring.cp_command,
    "keys": configuring.keys_command, "plan": configuring.plan_command,
    "lr-find": configuring.lr_find_command, "summary": configuring.summary_command,
    "audit": configuring.audit_command,
    "resume": runs.resume_command, "evaluate": runs.evaluate_command,
    "report": runs.report_command, "mislabeled": runs.mislabeled_command,
    "verify": runs.verify_command, "evidence": runs.evidence_command,
    "compare": runs.compare_command,
    "predict": use.predict_command, "export": use.export_command,
    "card": use.card_command,
    "weights": keeping.weights_command, "cache": keeping.cache_command,
}
