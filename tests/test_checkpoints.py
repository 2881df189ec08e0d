import resource

import pytest
import torch
from torch import nn

from finetune.errors import FinetuneError
from finetune.training.checkpoints import (
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from finetune.training.loop import LoopState


def trained():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_checkpoint_restores_weights_moments_and_state(tmp_path):
    model, optimizer = trained()
    state = LoopState(history=[{"epoch": 1}], step=7, phase=1, phase_start=3, opened_at={0: 3})
    save_checkpoint(tmp_path / "last.pt", model=model, optimizer=optimizer, state=state)
    other = nn.Linear(3, 2)
    fresh = torch.optim.AdamW(other.parameters(), lr=0.5)
    assert load_checkpoint(tmp_path / "last.pt", model=other, optimizer=fresh) == state
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(fresh.state_dict()["state"][0]["exp_avg"],
                       optimizer.state_dict()["state"][0]["exp_avg"])


def test_a_damaged_checkpoint_is_told(tmp_path):
    model, optimizer = trained()
    save_checkpoint(tmp_path / "last.pt", model=model, optimizer=optimizer, state=LoopState())
    content = (tmp_path / "last.pt").read_bytes()
    for damaged in (content[: len(content) // 2], content[:-1], b"", b"hello" * 100):
        (tmp_path / "last.pt").write_bytes(damaged)
        with pytest.raises(FinetuneError, match=r"last\.pt.*start the run again"):
            load_checkpoint(tmp_path / "last.pt", model=model, optimizer=optimizer)


def test_another_models_checkpoint_is_told(tmp_path):
    model, optimizer = trained()
    save_checkpoint(tmp_path / "last.pt", model=model, optimizer=optimizer, state=LoopState())
    with pytest.raises(FinetuneError, match=r"last\.pt"):
        load_checkpoint(tmp_path / "last.pt", model=nn.Linear(4, 2), optimizer=optimizer)


@pytest.mark.parametrize("limit", [1000, 400_000])
def test_a_disk_that_gets_full_is_an_oserror_and_the_file_before_stays(limit, tmp_path):
    model = nn.Linear(500, 500)
    optimizer, path = torch.optim.SGD(model.parameters()), tmp_path / "last.pt"
    save_checkpoint(path, model=model, optimizer=optimizer, state=LoopState())
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            save_checkpoint(path, model=model, optimizer=optimizer, state=LoopState(step=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_weights_survive_tied_tensors(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    save_weights(tmp_path / "w.safetensors", model, metadata={"epoch": "1"})
    other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    load_weights(tmp_path / "w.safetensors", other)
    assert torch.equal(other[1].weight, model[0].weight)
    with pytest.raises(FinetuneError, match=r"w\.safetensors"):
        load_weights(tmp_path / "w.safetensors", nn.Linear(3, 3))


def test_the_same_weights_are_the_same_bytes(tmp_path):
    model = torch.nn.Linear(3, 2)
    written = []
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        save_weights(path, model, metadata={"model": "a", "epoch": "1", "third": "c"})
        written.append(path.read_bytes())
    assert len(set(written)) == 1
