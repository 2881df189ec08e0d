"""Reading ahead of the training in a thread, and when to do so.

A process for reading pays for itself only where cores are left for it. Decoders and resizing
release the interpreter's lock, so a thread does nearly as well on small machines, and needs no
second copy of anything in memory.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import cv2

__all__ = ["BATCHES_AHEAD", "map_ahead", "read_ahead", "reading_processes"]

T = TypeVar("T")
S = TypeVar("S")
BATCHES_AHEAD = 4
_FEW_CORES = 5  # below, and without an accelerator, no core is left for other processes


def reading_processes(cores: int, *, accelerator: bool) -> int:
    """How many processes read pictures; 0: a thread of this process reads ahead.

    >>> [reading_processes(n, accelerator=a) for n in (2, 4, 8, 64) for a in (False, True)]
    [0, 0, 0, 2, 6, 6, 8, 8]
    """
    return 0 if cores < _FEW_CORES and not accelerator else min(8, max(0, cores - 2))


def read_ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items in the same order, made by a thread at most ``depth`` ahead.

    What making an item raises is raised here, in its place. The thread ends with the last item, or
    when this iterator is closed; closing waits for the item in the making.

    Args:
        items: Used by the thread alone.
        depth: How many items are kept at most, 1 up.
    """
    ready: queue.SimpleQueue[tuple[str, T | BaseException | None]] = queue.SimpleQueue()
    room, closed = threading.Semaphore(depth), threading.Event()

    def work() -> None:
        cv2.setNumThreads(0)  # its own threads would compete with those of the training
        try:
            while room.acquire() and not closed.is_set():
                ready.put(("item", next(items)))
        except StopIteration:
            ready.put(("end", None))
        except BaseException as error:  # handed over, whatever it is
            ready.put(("error", error))

    thread = threading.Thread(target=work, name="finetune-reader", daemon=True)
    thread.start()
    try:
        yield from _taken(ready, room)
    finally:
        closed.set()
        room.release()
        thread.join()


def _taken(ready: "queue.SimpleQueue[tuple[str, T | BaseException | None]]",
           room: threading.Semaphore) -> Iterator[T]:
    while True:
        kind, value = ready.get()
        if isinstance(value, BaseException) and kind == "error":
            raise value
        if kind == "end":
            return
        room.release()
        yield value  # type: ignore[misc]


def map_ahead(function: Callable[[S], T], items: Iterable[S], *, threads: int,
              ahead: int) -> Iterator[T]:
    """``function`` of each item, in their order, made by threads at most ``ahead`` before.

    What the function raises is raised here, in its place. No more than ``ahead`` items are taken
    or kept, however many there are.

    Args:
        function: Called in the threads.
        items: Taken in this thread.
        threads: How many; 0: no thread, each is made when it is asked for.
        ahead: Results made or in the making, 1 up.
    """
    if not threads:
        yield from map(function, items)
        return
    pool, waiting = ThreadPoolExecutor(threads), deque[Future[T]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
