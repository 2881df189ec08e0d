"""On a GPU: finetune's loop against two plain torch loops, and cached features against none.

    python benchmarks/gpu.py [--models resnet18 resnet50] [--size 224] [--batch 128] [--rounds 3]

Training: all layers of a network, on synthetic pictures that lie on the device already, each side
in the layout that it computes in. "finetune" is `finetune.training.loop.train` as a run calls it
(groups with rates of their own, clipping, a finite loss checked in every step) in the arithmetic
that training.precision=auto chooses, with deterministic kernels and without TF32; "finetune, not
deterministic" the same with cuDNN's benchmark mode, to see what that costs; --compile adds
training.compile. "plain" is forward, cross entropy, backward and AdamW in float32 as torch comes
(TF32 in convolutions, contiguous). "tuned" is bf16 autocast, channels last, fused AdamW and cuDNN's
benchmark mode. Sides take turns; the first round warms up and isn't counted. Ratios are a side's
pictures a second over plain's in the same round, the median of the rounds.

Caching: epochs of whole runs, freezing.policy=below freezing.below=layer4 data.transform=none on
generated pictures, with training.cache_features=auto and never: the median of training seconds from
the second epoch on.
"""

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import describe_machine, markdown, parser_of, ratio_of_rounds, report

Action = Callable[[], None]


def main() -> None:
    """Run the benchmark."""
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FINETUNE_CACHE"] = str(Path(folder) / "cache")
        training = [row for name in options.models for row in measure_training(name, options)]
        caching = measure_caching(options, Path(folder)) if options.pictures else []
    result = {"machine": describe_machine(), "device": describe_device(options.device),
              "training": training, "caching": caching}
    tables = [training_table(training), caching_table(caching) if caching else "",
              f"Device: {result['device']}"]
    report(options, result, "\n\n".join(filter(None, tables)))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50"], help="timm names")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40, help="in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="measure training.compile, too")
    parser.add_argument("--pictures", type=int, default=1024, help="of the cached runs; 0: none")
    parser.add_argument("--epochs", type=int, default=4, help="of the cached runs")
    parser.add_argument("--frozen-model", default="resnet18")
    return parser.parse_args()


def describe_device(name: str) -> str:
    """The accelerator and what computes on it."""
    import torch

    if name != "cuda":
        return name
    return (f"{torch.cuda.get_device_name()}, {torch.cuda.mem_get_info()[1] / 2**30:.0f} GiB, CUDA "
            f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")


def measure_training(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each side of one network."""
    sides = {"finetune": ours(name, options, deterministic=True),
             "finetune, not deterministic": ours(name, options, deterministic=False),
             "plain": plain(name, options), "tuned": tuned(name, options)}
    if options.compile:
        sides["finetune, compiled"] = ours(name, options, deterministic=True, compiled=True)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(options.rounds + 1):
        for side in list(sides)[::1 if number % 2 else -1]:
            seconds[side].append(seconds_of(sides[side], options.device))
    speeds = {side: [options.steps * options.batch / s for s in times[1:]]
              for side, times in seconds.items()}
    return [{"model": name, "side": side, "size": options.size, "batch": options.batch,
             "images_per_second": statistics.median(found), "rounds": found,
             "ratio": ratio_of_rounds(found, speeds["plain"]),
             "ratio_to_tuned": ratio_of_rounds(found, speeds["tuned"])}
            for side, found in speeds.items()]


def seconds_of(action: Action, device: str) -> float:
    """Seconds that an action takes, until the device has done it all."""
    import torch

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    action()
    wait()
    return time.perf_counter() - started


def switch(*, exact: bool, timed: bool) -> None:
    """Set torch's switches of the process: as finetune sets them, or as they come."""
    import torch

    torch.backends.cudnn.allow_tf32 = not exact
    torch.backends.cudnn.benchmark = timed
    torch.use_deterministic_algorithms(exact and not timed, warn_only=True)


def batches(options: argparse.Namespace, layout: Any) -> list[Any]:
    """Four batches on the device, over and over: pictures, labels, numbers."""
    import torch

    torch.manual_seed(0)
    shape = (options.batch, 3, options.size, options.size)
    made = [(torch.randn(shape, device=options.device).contiguous(memory_format=layout),
             torch.randint(0, 10, (options.batch,), device=options.device),
             torch.arange(options.batch)) for _ in range(min(4, options.steps))]
    return [made[i % len(made)] for i in range(options.steps)]


def ours(name: str, options: argparse.Namespace, *, deterministic: bool,
         compiled: bool = False) -> Action:
    """An epoch of finetune's loop, in the arithmetic that it chooses."""
    import torch

    from finetune.config import Config, DataConfig, ModelConfig, TrainingConfig
    from finetune.devices import compute_exactly
    from finetune.fastest import settle_arithmetic
    from finetune.method import arithmetic, build_optimizer
    from finetune.models.building import build_model
    from finetune.models.parameters import split_parameter_groups
    from finetune.specs import Dtype, InputSpec, Resize
    from finetune.training.compiling import compile_forward
    from finetune.training.loop import LoopState, Pass, TrainingSettings, train

    device = torch.device(options.device)
    compute_exactly(device)
    model = build_model(name, num_classes=10, weights=None)[0].to(device)
    spec = InputSpec((options.size, options.size), 3, ("r", "g", "b"), Dtype.uint8, (0.0, 255.0),
                     (0.5,) * 3, (0.5,) * 3, "bilinear", Resize.squash)
    config = Config(model=ModelConfig(name=name), data=DataConfig(batch_size=options.batch),
                    training=TrainingConfig())
    chosen = arithmetic(settle_arithmetic(config, model, spec, pictures=10**6, device=device,
                                          say=lambda text: print(f"{name}: {text}", flush=True)))
    groups = split_parameter_groups(chosen.apply(model).train(), lr=1e-3, weight_decay=0.05,
                                    layer_decay=0.75)
    optimizer = build_optimizer("adamw", groups, 1e-3, device)
    given = batches(options, _layout(chosen))
    forward = compile_forward(model) if compiled else model
    way = Pass(given, forward, chosen.lay_out)  # type: ignore[arg-type]
    settings = TrainingSettings(epochs=1, seed=0, lr=1e-3, max_grad_norm=1.0,
                                batch_size=options.batch, autocast=chosen.autocast(device))
    plan = _Everything(frozenset(group.depth for group in groups))

    def epoch() -> None:
        switch(exact=True, timed=not deterministic)
        for _ in train(model, optimizer=optimizer, criterion=torch.nn.CrossEntropyLoss(),
                       plan=lambda history: plan, begin=lambda plan, epoch: way, evaluate=dict,
                       settings=settings, state=LoopState()):
            pass

    return epoch


@dataclasses.dataclass(frozen=True)
class _Everything:
    depths: frozenset[int]
    lr: float | None = None
    phase: int = 0


def _layout(chosen: Any) -> Any:
    import torch

    return (torch.channels_last if chosen.memory_format == "channels_last"
            else torch.contiguous_format)


def plain(name: str, options: argparse.Namespace) -> Action:
    """An epoch of the loop that users write, in float32 as torch comes."""
    import torch

    return _loop(name, options, layout=torch.contiguous_format, bf16=False)


def tuned(name: str, options: argparse.Namespace) -> Action:
    """The same in bf16, channels last, with a fused optimizer and kernels chosen by timing."""
    import torch

    return _loop(name, options, layout=torch.channels_last, bf16=True)


def _loop(name: str, options: argparse.Namespace, *, layout: Any, bf16: bool) -> Action:
    import timm
    import torch
    from torch.nn.functional import cross_entropy

    model = timm.create_model(name, num_classes=10).to(options.device, memory_format=layout).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=bf16 or None)
    given = batches(options, layout)

    def epoch() -> None:
        switch(exact=False, timed=bf16)
        for images, targets, _ in given:
            with torch.autocast(options.device, torch.bfloat16, enabled=bf16):
                loss = cross_entropy(model(images), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return epoch


def measure_caching(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row with cached features and one without, rounds in turn."""
    root = write_pictures(folder / "pictures.npz", options)
    rounds: dict[str, list[float]] = {"auto": [], "never": []}
    for number in range(options.rounds):
        for choice in list(rounds)[::1 if number % 2 else -1]:
            rounds[choice].append(epoch_seconds(choice, root, folder / "runs", options))
    return [{"cache_features": choice, "model": options.frozen_model, "size": options.size,
             "pictures": options.pictures, "seconds": statistics.median(found), "rounds": found,
             "ratio": ratio_of_rounds(rounds["never"], found)} for choice, found in rounds.items()]


def write_pictures(path: Path, options: argparse.Namespace) -> Path:
    """Noise in two classes, of which one is brighter."""
    import numpy as np

    random, labels = np.random.default_rng(0), np.arange(options.pictures) % 2
    images = random.integers(0, 200, (options.pictures, options.size, options.size, 3), np.uint8)
    images += (labels * 50).astype(np.uint8)[:, None, None, None]
    np.savez(path, images=images, labels=labels)
    return path


def epoch_seconds(choice: str, root: Path, runs: Path, options: argparse.Namespace) -> float:
    """Median training seconds of an epoch from the second on."""
    from measured_fit import measured_fit

    run, _ = measured_fit(None, {
        "data.root": str(root), "output_dir": str(runs), "data.image_size": options.size,
        "data.transform": "none", "model.name": options.frozen_model, "model.weights": None,
        "freezing.policy": "below", "freezing.below": "layer4", "tracking.mode": "disabled",
        "training.epochs": options.epochs, "training.cache_features": choice,
        "device": options.device})
    return statistics.median([entry["seconds"] for entry in run.history][1:])


def training_table(rows: list[dict[str, Any]]) -> str:
    """Pictures a second of every side."""
    columns = ["model", "side", "size", "batch", "images/s", "ratio to plain", "ratio to tuned"]
    return markdown(columns, [[row["model"], row["side"], row["size"], row["batch"],
                               row["images_per_second"], row["ratio"], row["ratio_to_tuned"]]
                              for row in rows])


def caching_table(rows: list[dict[str, Any]]) -> str:
    """Seconds of an epoch with and without a cache."""
    columns = ["training.cache_features", "model", "size", "pictures", "an epoch, s",
               "never / this"]
    return markdown(columns, [[row["cache_features"], row["model"], row["size"], row["pictures"],
                               row["seconds"], row["ratio"]] for row in rows])


if __name__ == "__main__":
    main()
