"""How freed memory is kept: by the process, for the next step.

glibc gives large blocks back to the system as soon as they are freed and gets them again, page by
page and zeroed, in the next training step: on CPUs that takes longer than much of the arithmetic.
"""

import ctypes
import os
import sys

__all__ = ["give_back_freed_memory", "keep_freed_memory"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # names of mallopt's parameters, malloc.h
_NEVER, _PAD = -1, 64 * 2**20


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed; whether it does now.

    Nothing is changed on other systems, or when the user has set ``MALLOC_...`` or
    ``GLIBC_TUNABLES`` or preloads another allocator.
    """
    library = _glibc()
    return library is not None and all([
        library.mallopt(_TRIM_THRESHOLD, _NEVER), library.mallopt(_TOP_PAD, _PAD),
        library.mallopt(_MMAP_MAX, 0)])


def give_back_freed_memory() -> None:
    """Give the system back, once, what is free now.

    For the moments between training, validation and saving: each cuts its blocks otherwise, and
    fits badly into what the others left. Getting 200 MiB again takes 0.05 s.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc and nobody else has decided about its memory."""
    own = [name for name in os.environ if name.startswith("MALLOC_")]
    if sys.platform != "linux" or own or {"GLIBC_TUNABLES", "LD_PRELOAD"} & os.environ.keys():
        return None
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018
    except (OSError, AttributeError):  # musl
        return None
    return library
