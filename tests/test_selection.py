"""Which epoch is chosen, and when training gives up."""

import pytest

from finetune.selection import best_epoch, is_exhausted, patience_epochs


def history(values, losses=None, opened=()):
    losses = losses or [1.0] * len(values)
    return [{"val": {"balanced_accuracy": v, "log_loss": loss}, "opened": [1] * (i in opened)}
            for i, (v, loss) in enumerate(zip(values, losses, strict=True))]


@pytest.mark.parametrize(("values", "losses", "best"), [
    ([0.1, 0.5, 0.3], None, 1), ([0.5, 0.5], [0.9, 0.8], 1), ([0.5, 0.5], [0.8, 0.8], 0),
    ([None, 0.0], None, 1), ([None, None], [2.0, 1.0], 1), ([0.5, 0.5], [None, 0.8], 1)])
def test_the_best_epoch_is_the_first_of_the_best_by_metric_then_log_loss(values, losses, best):
    assert best_epoch(history(values, losses), "balanced_accuracy") == best


def test_of_log_loss_less_is_better():
    assert best_epoch(history([0.9, 0.1], [2.0, 1.0]), "log_loss") == 1


@pytest.mark.parametrize(("fraction", "epochs", "patience"), [
    (None, 10, None), (0.3, 10, 3), (0.3, 1, 1), (0.01, 20, 1), (1.0, 7, 7)])
def test_patience_is_a_share_of_the_epochs_and_at_least_one(fraction, epochs, patience):
    assert patience_epochs(fraction, epochs) == patience


@pytest.mark.parametrize(("values", "patience", "over"), [
    ([], 1, False), ([0.5], 1, False), ([0.5, 0.4], 1, True), ([0.5, 0.4], 2, False),
    ([0.5, 0.4, 0.3], 2, True), ([0.5, 0.4, 0.6], 2, False), ([0.5, 0.4, 0.3], None, False)])
def test_training_ends_after_patience_epochs_without_gain(values, patience, over):
    assert is_exhausted(history(values), "balanced_accuracy", patience) is over


def test_an_unfreezing_starts_the_count_anew():
    falling = [0.5, 0.4, 0.3, 0.2]
    assert is_exhausted(history(falling), "balanced_accuracy", 2)
    assert not is_exhausted(history(falling, opened=[2]), "balanced_accuracy", 2)
    assert is_exhausted(history([*falling, 0.1], opened=[2]), "balanced_accuracy", 2)


def test_nothing_is_given_up_before_the_last_unfreezing():
    falling = [0.5, 0.4, 0.3]
    assert is_exhausted(history(falling), "balanced_accuracy", 1)
    assert not is_exhausted(history(falling), "balanced_accuracy", 1, last_opening=3)
    opened = history([*falling, 0.2, 0.1], opened=[3])
    assert not is_exhausted(opened[:4], "balanced_accuracy", 1, last_opening=3)
    assert is_exhausted(opened, "balanced_accuracy", 1, last_opening=3)
