"""How much of the machine's bf16 arithmetic a training step reaches.

    python benchmarks/models.py [--models resnet18 resnet50] [--size 224] [--batch 32]

The peak is measured, not read off a data sheet: the fastest of several large square
``torch.matmul`` in bf16, 2 n^3 operations each. A step is forward, loss, backward and AdamW on a
batch that is in memory already, in finetune's arithmetic
(`finetune.training.arithmetic.Arithmetic`). Operations of forward and backward are counted by
torch's FlopCounterMode, which sees convolutions and matrix products only (the optimizer, norms and
activations count as time but as no work). Peak and steps take turns, so that a machine that slows
down does so for both; medians of the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from measuring import describe_machine, markdown, parser_of, report


def main() -> None:
    """Run the benchmark."""
    options = parse()
    rows = []
    for name in options.models:
        for words in options.arithmetic:
            rows.append(measure(name, words, options))
    columns = ["model", "arithmetic", "size", "batch", "GFLOP a step", "s a step",
               "GFLOP/s", "peak GFLOP/s", "share of the peak"]
    report(options, {"machine": describe_machine(), "rows": rows},
           markdown(columns, [list(row.values()) for row in rows]))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet18"], help="timm names")
    parser.add_argument("--arithmetic", nargs="+", help="precision,memory_format",
                        default=["bf16,channels_last", "fp32,channels_last", "fp32,contiguous"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="in a round")
    parser.add_argument("--matrices", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    return parser.parse_args()


def measure(name: str, words: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row of the table."""
    step = build_step(name, words, options)
    work = count(step)
    step()
    steps, peaks = [], []
    for _ in range(options.rounds):
        peaks.append(max(speed_of_matmul(n) for n in options.matrices))
        steps.append(statistics.median(seconds_of(step) for _ in range(options.steps)))
    seconds, peak = statistics.median(steps), statistics.median(peaks)
    return {"model": name, "arithmetic": words.replace(",", " "), "size": options.size,
            "batch": options.batch, "gflop": work / 1e9, "seconds": seconds,
            "gflop_per_second": work / seconds / 1e9, "peak_gflop_per_second": peak / 1e9,
            "share": f"{work / seconds / peak:.1%}"}


def build_step(name: str, words: str, options: argparse.Namespace) -> Callable[[], None]:
    """One training step of finetune's arithmetic on a fixed batch."""
    import torch
    from torch.nn.functional import cross_entropy

    from finetune.memory import keep_freed_memory
    from finetune.models.building import build_model
    from finetune.training.arithmetic import Arithmetic
    from finetune.training.loop import train_step

    keep_freed_memory()
    arithmetic = Arithmetic(*words.split(","))
    model = arithmetic.apply(build_model(name, num_classes=10, weights=None)[0]).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = arithmetic.lay_out(torch.randn(options.batch, 3, options.size, options.size))
    targets = torch.arange(options.batch) % 10
    autocast = arithmetic.autocast(torch.device("cpu"))

    def step() -> None:
        with autocast():
            logits = model(images)
        cross_entropy(logits.float(), targets).backward()
        train_step(model, optimizer, max_grad_norm=1.0)

    return step


def count(step: Callable[[], None]) -> int:
    """Floating point operations of one step."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def speed_of_matmul(n: int, repeats: int = 3) -> float:
    """Operations a second of the fastest of some bf16 products of n x n matrices."""
    import torch

    a, b = (torch.randn(n, n, dtype=torch.bfloat16) for _ in range(2))
    out = torch.matmul(a, b)
    return float(2 * n**3 / min(seconds_of(lambda: torch.matmul(a, b, out=out))
                                for _ in range(repeats)))


def seconds_of(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
