"""The weights that a run started from: kept where it comes back to them, and checked.

They are written once, before anything is trained; `finetune.run_directory.RunDirectory` keeps their
hash. A resumed run needs no other source of weights than its own folder.
"""

import functools
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from finetune.config import Config, DecayTarget, HeadFitting
from finetune.errors import CheckError
from finetune.files import hash_file
from finetune.method import Method
from finetune.models.heads import classifier_modules
from finetune.run_directory import RunDirectory
from finetune.training.checkpoints import load_tensors, save_tensors, save_weights
from finetune.training.start_decay import decay_towards_start, starts_by_group

__all__ = ["decay_to_start", "keep_start", "keep_start_classifier", "pull_towards", "read_start"]


def keep_start(run: RunDirectory, config: Config, model: nn.Module) -> None:
    """Write the weights before training, if this run comes back to them."""
    if config.optimizer.decay_towards is DecayTarget.start or config.training.wise_ft is not None:
        save_weights(run.start_weights, model, metadata={"model": config.model.name})


def keep_start_classifier(run: RunDirectory, config: Config, model: nn.Module,
                          fit: str | None) -> None:
    """Write the classifier that an epoch fitted exactly, if it is to be mixed in (``wise_ft``).

    ``fit`` says how an epoch was fitted at once; None: it was not.
    """
    if fit is not None and config.training.wise_ft is not None:
        heads = tuple(f"{name}." for name in classifier_modules(model))
        save_tensors(run.start_classifier, {name: tensor for name, tensor
                                            in model.state_dict().items()
                                            if name.startswith(heads)}, metadata={"fit": fit})


def read_start(run: RunDirectory, config: Config, model: nn.Module) -> dict[str, Tensor]:
    """The starting network's tensors by name; the classifier's only where it was fitted exactly.

    Raises:
        CheckError: The file isn't the one that the run began with.
        FinetuneError: A file is missing or damaged.
    """
    heads = tuple(f"{name}." for name in classifier_modules(model))
    name = str(run.start_weights.relative_to(run.path))
    tensors = load_tensors(run.start_weights)
    if hash_file(run.start_weights) != run.environment["files"].get(name):
        raise CheckError(f"{run.start_weights} is not the file that this run began with (its "
                         "SHA-256 is another): put the old one back, or start the run again")
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith(heads)}
    if config.training.head_fit is HeadFitting.exact and config.training.wise_ft is not None \
            and run.start_classifier.exists():
        found |= load_tensors(run.start_classifier)
    return found


def decay_to_start(run: RunDirectory, config: Config, method: Method) -> Callable[[], None]:
    """What is to be done before each step: L2-SP, or nothing.

    Raises:
        CheckError, FinetuneError: As `read_start`.
    """
    if config.optimizer.decay_towards is not DecayTarget.start:
        return lambda: None
    return pull_towards(method, read_start(run, config, method.model))


def pull_towards(method: Method, start: Mapping[str, Tensor]) -> Callable[[], None]:
    """L2-SP's part of a step towards these tensors by name; nothing where no group decays so."""
    groups = method.optimizer.param_groups
    starts = starts_by_group([group.parameter_names for group in method.groups], groups, start)
    return functools.partial(decay_towards_start, groups, starts)
