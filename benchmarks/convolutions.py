"""A ResNet's convolutions by the library and as matrix products: milliseconds, forward + backward.

    python benchmarks/convolutions.py [--batch 32] [--json FILE]

For the shapes of a ResNet-18 at 64 and 224 px, in bf16 and float32, channels last: medians of
interleaved calls. From this table come the limits in `finetune.training.products`: weights for each
pixel of the output from which the product is taken.
"""

import copy
import statistics
import time
from typing import Any

import torch
from measuring import describe_machine, markdown, parser_of, report
from torch import Tensor, nn

import finetune.training.products as products
from finetune.memory import keep_freed_memory

SHAPES = [(512, 512, 2, 1), (256, 512, 4, 2), (256, 256, 4, 1), (128, 256, 8, 2), (128, 128, 8, 1),
          (512, 512, 7, 1), (256, 512, 14, 2), (256, 256, 14, 1)]


def main() -> None:
    """Run the benchmark."""
    parser = parser_of(__doc__)
    parser.add_argument("--batch", type=int, default=32, help="pictures")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    keep_freed_memory()
    products._WORTH = {torch.bfloat16: 0, torch.float32: 0}
    rows = [measure(options, kind, *shape) for kind in (torch.bfloat16, torch.float32)
            for shape in SHAPES]
    table = markdown(["number type", "channels", "side", "stride", "weights a pixel", "library ms",
                      "product ms", "ratio"],
                     [list(row.values()) for row in rows])
    report(options, {"machine": describe_machine(), "rows": rows}, table)


def measure(options: Any, kind: torch.dtype, inputs: int, outputs: int, side: int,
            stride: int) -> dict[str, Any]:
    """Both ways for one shape."""
    library = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    library = library.to(memory_format=torch.channels_last)
    product = copy.deepcopy(library)
    products.use_products(product, True)
    images = torch.randn(options.batch, inputs, side, side).contiguous(
        memory_format=torch.channels_last)
    times: dict[str, list[float]] = {"library": [], "product": []}
    for _ in range(options.rounds + 3):
        for name, layer in (("library", library), ("product", product)):
            times[name].append(milliseconds(layer, images, kind))
    found = {name: round(statistics.median(each[3:]), 2) for name, each in times.items()}
    pixels = options.batch * (side // stride) ** 2
    return {"type": str(kind).split(".")[-1], "channels": f"{inputs} to {outputs}", "side": side,
            "stride": stride, "weights": library.weight.numel() // pixels, **found,
            "ratio": round(found["library"] / found["product"], 2)}


def milliseconds(layer: nn.Module, images: Tensor, kind: torch.dtype) -> float:
    """Of one pass forward and backward."""
    given = images.to(kind).requires_grad_()
    started = time.perf_counter()
    with torch.autocast("cpu", kind, enabled=kind is torch.bfloat16):
        answer = layer(given)
    answer.backward(torch.ones_like(answer))
    layer.zero_grad()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    main()
