"""The weights and the statistics that a network is measured with."""

import pytest
import torch
from torch import nn

from normball import ClippedScion, param_groups
from normball.lab.averaged import measured
from normball.lab.optimizers import configure
from normball.lab.tasks import find_task
from normball.lab.train import Trainer, accuracy


def test_statistics_of_batch_norm_are_those_of_the_weights_for_evaluation() -> None:
    """An optimizer whose evaluation weights are 0 leaves norms that saw zeros only."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    class Zeros:
        def eval(self) -> None:
            self.kept = model[0].weight.detach().clone()
            with torch.no_grad():
                model[0].weight.zero_()

        def train(self) -> None:
            with torch.no_grad():
                model[0].weight.copy_(self.kept)

    model(torch.randn(8, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with measured(model, Zeros(), [torch.randn(8, 3) for _ in range(3)]):
        assert not model.training
        assert torch.allclose(model[1].running_mean, model[0].bias)
        assert torch.allclose(model[1].running_var, torch.zeros(4), atol=1e-6)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model[1].momentum == 0.1


def trainer(**given: object) -> Trainer:
    settings = {"train_size": 256, "test_size": 120, "epochs": 2, "batch_size": 64} | given
    return Trainer(configure(find_task("digits"), "default", **settings))


def test_the_default_is_what_a_user_gets_who_sets_nothing() -> None:
    ours = trainer().state.optimizer
    users = ClippedScion(param_groups(nn.Linear(4, 4)), average=0.1)
    for name in ("lr", "alpha", "average"):
        assert ours.param_groups[0][name] == users.param_groups[0][name]
    assert repr(ours).splitlines()[0] == repr(users).splitlines()[0]


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_run_with_an_average_is_scored_with_the_averaged_weights(model: str) -> None:
    run = trainer(model=model, epochs=8)  # the average of the first steps is the last one's weights
    result = run.run()
    state = run.state
    fast = {name: value.clone() for name, value in state.model.state_dict().items()}
    state.optimizer.eval()
    averaged = state.model.eval().state_dict()
    assert any(not torch.equal(fast[name], averaged[name]) for name in fast)
    assert (
        accuracy(state.model, find_task("digits").data(run.config).test_batches()) == result.score
    )
