"""The exact head against five epochs of AdamW and scikit-learn's LogisticRegressionCV.

    python benchmarks/head.py --rows 2000 --features 512 --classes 7
    python benchmarks/head.py --data DIR --model tf_efficientnet_lite0 --weights packaged --size 96

All three get the same features: drawn at random (classes of overlapping normal distributions in
directions of very different variance, then a ReLU), or of a network on a folder of class folders.
Half of the rows are fitted, half held out. AdamW (batches of 32, rate falling by a cosine, weight
decay 0.01) trains a linear layer on the raw features, and, as it may not, on standardised ones.
Seconds (wall, and CPU of the process) are of fitting, choosing the penalty included, imports left
out. Prints a table as Markdown.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegressionCV
from torch import Tensor, nn
from torch.nn import functional

from finetune.models.building import build_model
from finetune.specs import LabelKind, LabelSpec
from finetune.training.head_fit import fit_head

Answer = Callable[[Tensor], Tensor]  # features to logits


def main() -> None:
    """Run the benchmark."""
    options = parse()
    torch.manual_seed(options.seed)
    features, labels = (network_features if options.data else random_features)(options)
    order = torch.randperm(len(labels))
    fit, held = order[:len(order) // 2], order[len(order) // 2:]
    classes = int(labels.max()) + 1
    print(f"{len(fit)} rows fitted, {len(held)} held out, {features.shape[1]} features, "
          f"{classes} classes, {torch.get_num_threads()} thread(s)\n\n"
          "| method | seconds | CPU s | held-out log loss | held-out accuracy |\n"
          "|---|---|---|---|---|")
    warm_up()
    for name, method in methods(classes, options.epochs):
        started, busy = time.perf_counter(), time.process_time()
        answer = method(features[fit], labels[fit])
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        logits = answer(features[held])
        loss = functional.cross_entropy(logits, labels[held])
        right = (logits.argmax(1) == labels[held]).double().mean()
        print(f"| {name} | {seconds:.2f} | {busy:.2f} | {loss:.4f} | {right:.4f} |", flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=2000, help="fitted; as many are held out")
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=7)
    parser.add_argument("--data", type=Path, help="a folder of class folders, instead")
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="packaged")
    parser.add_argument("--size", type=int, default=96, help="pixels")
    parser.add_argument("--epochs", type=int, default=5, help="of AdamW")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def random_features(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Twice ``rows``: features (2N, D) and labels (2N,)."""
    labels = torch.randint(options.classes, (2 * options.rows,))
    centres = torch.randn(options.classes, options.features) / 4
    plain = centres[labels] + torch.randn(len(labels), options.features)
    variances = torch.logspace(0, -2, options.features)[:, None]
    mix = variances * torch.randn(options.features, options.features)
    return (plain @ mix * 3 / options.features ** 0.5).relu(), labels


@torch.inference_mode()
def network_features(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """What the classifier of the network sees of each picture, and the picture's class."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    network, _ = build_model(options.model, num_classes=2, weights=options.weights)
    steps = v2.Compose([v2.ToImage(), v2.Resize((options.size, options.size)),
                        v2.ToDtype(torch.float32, scale=True),
                        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    pictures = ImageFolder(options.data, steps)
    network.eval()
    parts = [network.forward_head(network.forward_features(images), pre_logits=True)
             for images, _ in DataLoader(pictures, 32)]
    return torch.cat(parts).clone(), torch.tensor(pictures.targets)


def warm_up() -> None:
    """Load the libraries that are imported when first needed."""
    fit_head(torch.randn(20, 2), np.arange(20) % 2, label_spec=spec(2))


def spec(classes: int) -> LabelSpec:
    """One class each."""
    return LabelSpec(LabelKind.single, tuple(map(str, range(classes))))


def methods(classes: int, epochs: int) -> Iterator[tuple[str, Callable[[Tensor, Tensor], Answer]]]:
    """Names and functions of features and labels that return the fitted function."""
    yield "exact head", lambda x, y: exact(x, y, classes)
    for rate in (1e-3, 1e-2):
        yield f"AdamW, {epochs} epochs, lr {rate:g}", lambda x, y, rate=rate: adamw(
            x, y, classes, epochs=epochs, rate=rate)
    for rate in (1e-3, 1e-2):
        yield f"AdamW on standardised, lr {rate:g}", lambda x, y, rate=rate: standardised(
            x, lambda scaled: adamw(scaled, y, classes, epochs=epochs, rate=rate))
    yield "LogisticRegressionCV", lambda x, y: standardised(x, lambda scaled: sklearn(scaled, y))


def exact(features: Tensor, labels: Tensor, classes: int) -> Answer:
    """Ours."""
    fit = fit_head(features, labels, label_spec=spec(classes))
    return lambda given: given @ fit.weight.T + fit.bias


def adamw(features: Tensor, labels: Tensor, classes: int, *, epochs: int, rate: float) -> Answer:
    """A linear layer trained as in an ordinary linear probe, its features cached."""
    layer = nn.Linear(features.shape[1], classes)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=rate, weight_decay=0.01)
    batches = [part for _ in range(epochs) for part in torch.randperm(len(labels)).split(32)]
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for part in batches:
        optimizer.zero_grad()
        functional.cross_entropy(layer(features[part]), labels[part]).backward()
        optimizer.step()
        scheduler.step()
    return layer.requires_grad_(False)


def standardised(features: Tensor, method: Callable[[Tensor], Answer]) -> Answer:
    """A method on features of mean 0 and standard deviation 1."""
    mean, std = features.mean(0), features.std(0).clamp(min=1e-6)
    answer = method((features - mean) / std)
    return lambda given: answer((given - mean) / std)


def sklearn(features: Tensor, labels: Tensor) -> Answer:
    """The best of as many penalties by five folds; no one-standard-error rule."""
    model = LogisticRegressionCV(Cs=np.logspace(-1, 5, 13) / len(labels), cv=5, max_iter=1000,
                                 scoring="neg_log_loss", l1_ratios=(0,),
                                 use_legacy_attributes=False)
    model.fit(features.numpy(), labels.numpy())
    return lambda given: torch.from_numpy(model.decision_function(given.numpy()))


if __name__ == "__main__":
    main()
