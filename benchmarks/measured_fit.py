"""`finetune.fit` with a clock: what training and validation cost without imports and report.

The clock runs from the moment at which pictures have been read and the network built, to the last
epoch's end. Whatever is prepared in between counts (choice of arithmetic, caches, head, loaders,
optimizer, checkpoints); the drawing of figures, the description of the environment and the start
of tracking don't, nor does the final evaluation in float32, which no peer makes. A function that
is patched here and renamed in finetune fails at once, with an AttributeError.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from measuring import Clock


def measured_fit(recipe: str | None, values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Train; the run, and `Clock.measures` at the end of the last epoch."""
    import finetune
    from finetune import run as composition
    from finetune import session

    clock, measures = Clock(), {}
    for module, name in ((session, "write_batch_figures"), (session, "open_tracker"),
                         (composition, "write_likeness_sheet"),
                         (composition, "describe_environment")):
        setattr(module, name, _left_out(getattr(module, name), clock))
    settle, finish = composition.settle_arithmetic, composition._finish

    def start_and_settle(*args: Any, **options: Any) -> Any:
        clock.start()
        return settle(*args, **options)

    def stop_and_finish(*args: Any, **options: Any) -> Any:
        clock.stop()
        measures.update(clock.measures())
        return finish(*args, **options)

    composition.settle_arithmetic, composition._finish = start_and_settle, stop_and_finish
    try:
        return finetune.fit(recipe, values), measures
    finally:
        composition.settle_arithmetic, composition._finish = settle, finish


def _left_out(function: Callable[..., Any], clock: Clock) -> Callable[..., Any]:
    @functools.wraps(function)
    def measured(*args: Any, **options: Any) -> Any:
        with clock.paused():
            return function(*args, **options)

    return measured
