import copy
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

from finetune.models.depths import tensor_depths
from finetune.models.freezing import (
    EpochPlan,
    PhasePlan,
    Policy,
    freeze_except,
    freezing_plan,
    frozen_hash,
    train_mode,
)


def depths_by_epoch(policy, epochs, depth_count=6, **options):
    return [set(freezing_plan(policy, [None] * e, depth_count=depth_count, epochs=epochs,
                              **options).depths) for e in range(epochs)]


def test_none_trains_everything_and_head_only_the_classifier():
    assert depths_by_epoch("none", 3) == [set(range(6))] * 3
    assert depths_by_epoch("head_only", 3) == [{5}] * 3


@pytest.mark.parametrize("policy", ["head_then_all", "gradual"])
@pytest.mark.parametrize("epochs", [2, 3, 5, 20])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 1.0])
def test_unfreezing_policies_begin_with_the_head_only_open_and_end_unfrozen(policy, epochs,
                                                                            fraction):
    plans = depths_by_epoch(policy, epochs, frozen_fraction=fraction)
    assert plans[0] == {5}
    assert plans[-1] == set(range(6))
    assert all(a <= b for a, b in pairwise(plans))


def test_auto_rgn_trains_everything_with_rates_by_gradients_whatever_came_before():
    assert depths_by_epoch("auto_rgn", 3) == [set(range(6))] * 3
    asked = {policy: freezing_plan(policy, [], depth_count=6, epochs=3).by_gradient
             for policy in ("auto_rgn", "none", "gradual", "head_then_all")}
    assert asked == {"auto_rgn": True, "none": False, "gradual": False, "head_then_all": False}


def test_gradual_opens_from_the_top_down_without_gaps():
    plans = depths_by_epoch("gradual", 10, frozen_fraction=0.5)
    assert plans[:6] == [{5}, {4, 5}, {3, 4, 5}, {2, 3, 4, 5}, {1, 2, 3, 4, 5}, set(range(6))]


@pytest.mark.parametrize("policy", list(Policy))
def test_one_epoch_is_a_plan_for_every_policy(policy):
    options = {"phases": [PhasePlan(3, frozenset({5}))]} if policy == "phases" else {}
    assert all(depths_by_epoch(policy, 1, **options))


def test_a_longer_frozen_share_keeps_the_backbone_closed_longer():
    short, long = (sum(p == {5} for p in depths_by_epoch("head_then_all", 10, frozen_fraction=f))
                   for f in (0.2, 0.6))
    assert (short, long) == (2, 6)


def test_below_keeps_everything_under_the_stage_frozen():
    assert depths_by_epoch("below", 2, below=3) == [{3, 4, 5}] * 2


def test_phases_are_shares_of_the_epochs():
    phases = [PhasePlan(1, frozenset({5})), PhasePlan(3, frozenset({4, 5}), 1e-4)]
    assert depths_by_epoch("phases", 4, phases=phases) == [{5}, {4, 5}, {4, 5}, {4, 5}]
    assert depths_by_epoch("phases", 8, phases=phases) == [{5}] * 2 + [{4, 5}] * 6
    last = freezing_plan("phases", [None] * 3, depth_count=6, epochs=4, phases=phases)
    assert (last.lr, last.phase) == (1e-4, 1)


@pytest.mark.parametrize("epochs", range(2, 13))
@pytest.mark.parametrize("shares", [(1, 2, 1), (10, 1), (1, 10)])
def test_from_two_epochs_up_a_plan_begins_with_its_first_phase_and_ends_with_its_last(epochs,
                                                                                     shares):
    phases = [PhasePlan(share, frozenset({number})) for number, share in enumerate(shares)]
    plans = depths_by_epoch("phases", epochs, phases=phases)
    assert plans[0] == {0} and plans[-1] == {len(shares) - 1}
    assert [max(p) for p in plans] == sorted(max(p) for p in plans)


def train_one_step(model, plan):
    freeze_except(model, plan.depths)
    train_mode(model, plan)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model(torch.randn(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("depths", [{5}, {3, 4, 5}, {2}])
def test_frozen_depths_do_not_move_statistics_included(depths):
    model = timm.create_model("resnet10t", num_classes=3, zero_init_last=False)
    before, where = copy.deepcopy(model.state_dict()), tensor_depths(model)
    proof = frozen_hash(model, depths)
    train_one_step(model, EpochPlan(frozenset(depths)))
    assert frozen_hash(model, depths) == proof
    for name, tensor in model.state_dict().items():
        if where[name] not in depths:
            assert torch.equal(tensor, before[name]), name
        elif not name.endswith("num_batches_tracked"):
            assert not torch.equal(tensor, before[name]), name


def test_the_hash_sees_one_changed_bit_of_a_buffer():
    model = timm.create_model("resnet10t", num_classes=3, zero_init_last=False)
    proof = frozen_hash(model, {5})
    mean = model.get_buffer("layer1.0.bn1.running_mean")
    mean[0] = torch.nextafter(mean[0], torch.tensor(1.0))
    assert frozen_hash(model, {5}) != proof


def test_fixed_statistics_stay_while_norm_weights_train():
    model = timm.create_model("resnet10t", num_classes=3, zero_init_last=False)
    before = copy.deepcopy(model.state_dict())
    train_one_step(model, EpochPlan(frozenset(range(6)), update_norms=False))
    after = model.state_dict()
    assert torch.equal(after["layer4.0.bn1.running_mean"], before["layer4.0.bn1.running_mean"])
    assert not torch.equal(after["layer4.0.bn1.weight"], before["layer4.0.bn1.weight"])


def test_dropout_of_the_trained_head_is_active_and_below_it_is_not():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.Dropout(),
                          nn.Linear(2, 2))
    train_mode(model, EpochPlan(frozenset({1})))
    assert not model[0][1].training and model[1].training and model[2].training
