"""How freed memory is kept: by the process, for the next step.

glibc gives large blocks back to the system as soon as they are freed and gets them again, page by
page and zeroed, in the next training step: on CPUs that takes longer than much of the arithmetic.
"""

import ctypes
import os
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # names of mallopt's parameters, malloc.h
_NEVER, _PAD = -1, 64 * 2**20


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed; whether it does now.

    Nothing is changed on other systems, or when the user has set ``MALLOC_...`` or
    ``GLIBC_TUNABLES`` or preloads another allocator.
    """
    own = [name for name in os.environ if name.startswith("MALLOC_")]
    if sys.platform != "linux" or own or {"GLIBC_TUNABLES", "LD_PRELOAD"} & os.environ.keys():
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018
    except (OSError, AttributeError):  # musl
        return False
    return all([library.mallopt(_TRIM_THRESHOLD, _NEVER), library.mallopt(_TOP_PAD, _PAD),
                library.mallopt(_MMAP_MAX, 0)])
