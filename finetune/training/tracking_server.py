"""Where the tracking server is, and whether there is a key for it."""

import netrc
import os
import urllib.error
import urllib.request
from urllib.parse import urlsplit

__all__ = ["find_key", "reasons_against_online", "server_address"]

_HOSTED = ("api.forge.coreweave.com", "api.wandb.ai")  # two names of one server


def server_address() -> str:
    """The variable WANDB_BASE_URL, else what the installed version of wandb talks to."""
    given = os.environ.get("WANDB_BASE_URL")
    if given:
        return given
    reporting = os.environ.get("WANDB_ERROR_REPORTING")
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # looked at when the package is imported
    try:
        import wandb
    finally:
        if reporting is None:
            del os.environ["WANDB_ERROR_REPORTING"]
        else:
            os.environ["WANDB_ERROR_REPORTING"] = reporting
    return str(wandb.Settings().base_url)


def find_key(address: str) -> str | None:
    """The variable WANDB_API_KEY, else what `wandb login` left in the netrc file, else None."""
    given = os.environ.get("WANDB_API_KEY")
    if given:
        return given
    host = urlsplit(address).hostname or ""
    try:
        known = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return None
    found = [entry for name in ({host, *_HOSTED} if host in _HOSTED else {host})
             if (entry := known.authenticators(name))]
    return found[0][2] if found else None


def reasons_against_online(timeout: float) -> list[str]:
    """Why a run can't be sent now; nothing when it can.

    Args:
        timeout: Seconds to wait for an answer, 8 at most.
    """
    address = server_address()
    if not find_key(address):
        return ["tracking.mode=online needs a key: set WANDB_API_KEY"]
    try:
        with urllib.request.urlopen(address, timeout=min(timeout, 8.0)):
            return []
    except urllib.error.HTTPError:
        return []  # it answers
    except (OSError, ValueError) as error:
        return [f"the tracking server can't be reached ({error})"]
