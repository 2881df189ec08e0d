"""Commands for weights and for what is kept to be quicker."""

from pathlib import Path

from finetune.commands.parsing import command_parser
from finetune.console import say, table
from finetune.errors import ConfigurationError, did_you_mean

__all__ = ["cache_command", "weights_command"]


def weights_command(words: list[str]) -> int:
    """List, fetch or verify weights."""
    parser = command_parser("weights", [])
    kinds = parser.add_subparsers(dest="what", required=True, metavar="ls | fetch | verify")
    kinds.add_parser("ls", help="what is on this machine")
    fetch = kinds.add_parser("fetch", help="download into a new folder")
    fetch.add_argument("model", metavar="MODEL[.TAG]")
    fetch.add_argument("--to", required=True, metavar="DIR", type=Path)
    kinds.add_parser("verify", help="check such a folder").add_argument("folder", type=Path)
    given = parser.parse_args(words)
    from finetune import weights_store

    if given.what == "verify":
        say(weights_store.verify_weights(given.folder.expanduser()))
    elif given.what == "fetch":
        facts = weights_store.fetch_weights(given.model, given.to.expanduser())
        say(f"wrote {given.to}: {facts['model']}, licence {facts['licence']}; use it with "
            f"model.name={facts['model'].partition('.')[0]} model.weights={given.to}")
    else:
        table("weights that need no network", ["model.weights=", "model.name=", "licence", "MB",
                                               "where"],
              [[c.weights, c.network, c.licence, c.size / 1e6, c.path]
               for c in weights_store.list_weights()])
    return 0


def cache_command(words: list[str]) -> int:
    """List or clear what is kept to be quicker."""
    from finetune.caches import KINDS, clear_kept, list_kept

    parser = command_parser("cache", [])
    kinds = parser.add_subparsers(dest="what", required=True, metavar="ls | clear")
    kinds.add_parser("ls", help="what is kept")
    kinds.add_parser("clear", help="delete it").add_argument(
        "kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    given = parser.parse_args(words)
    if given.what == "clear":
        wrong = [kind for kind in given.kinds if kind not in KINDS]
        if wrong:
            raise ConfigurationError(f"cache clear {wrong[0]}: there are {', '.join(KINDS)}"
                                     f"{did_you_mean(wrong[0], KINDS)}")
        say(f"{clear_kept(given.kinds or KINDS) / 1e6:.1f} MB deleted")
        return 0
    table("kept to be quicker", ["kind", "MB", "what", "where"],
          [[k.kind, k.size / 1e6, k.what, k.path] for k in list_kept()])
    return 0
