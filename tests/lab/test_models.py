import pytest
import torch
from torch import nn

from normball.groups import param_groups
from normball.lab.errors import LabError
from normball.lab.models import GPT, MODELS, Airbench, Shape, ViT, find_model, mlp
from normball.lab.models.gpt import rotate

SHAPES = {False: Shape(3, 32, 10), True: Shape(0, 0, 65)}
# The published sizes: airbench94's 1.97 million, GPT-2's 124 million.
SIZES = {"airbench": 1.97e6, "gpt-124m": 123.6e6, "gpt-1b": 1.0e9, "deit-base": 86.6e6}


def shape_of(name: str) -> Shape:
    if name in ("gpt-124m", "gpt-1b"):
        return Shape(0, 0, 50_304)
    return Shape(3, 224, 1000) if name == "deit-base" else SHAPES[MODELS[name].text]


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_placed_and_the_size_is_the_published_one(name: str) -> None:
    with torch.device("meta"):
        model = MODELS[name].build(shape_of(name), 1.0)
        plan = param_groups(model)
    assert plan.rows
    if name in SIZES:
        count = sum(p.numel() for p in model.parameters())
        assert count == pytest.approx(SIZES[name], rel=0.01)


@pytest.mark.parametrize("name", ["cnn", "mlp", "airbench", "vit-tiny", "gpt-tiny", "gpt-small"])
def test_logits_have_the_shape_that_is_said(name: str) -> None:
    spec, shape = MODELS[name], shape_of(name)
    for width in (1.0, 0.5):
        model = spec.build(shape, width)
        if spec.text:
            x = torch.randint(65, (2, 7))
            assert model(x).shape == (2, 7, 65)
        else:
            assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_a_gpt_does_not_see_the_future_and_ties_its_head() -> None:
    torch.manual_seed(0)
    model = GPT(vocabulary=11, dim=16, depth=2, heads=2)
    assert model.head.weight is model.tokens.weight
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    tokens = torch.randint(11, (1, 9))
    other = tokens.clone()
    other[0, 5:] = (other[0, 5:] + 1) % 11
    one, two = model(tokens), model(other)
    assert torch.allclose(one[0, :5], two[0, :5], atol=1e-6)
    assert not torch.allclose(one[0, 5:], two[0, 5:], atol=1e-3)


def test_rotation_keeps_lengths_and_knows_distances_only() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 8, dtype=torch.float64).expand(2, 12, 8)
    turned_q, turned_k = rotate(q), rotate(k)
    assert torch.allclose(turned_q.norm(dim=-1), q.norm(dim=-1))
    assert torch.allclose(turned_q[0], q[0])
    products = turned_q @ turned_k.T
    for distance in range(12):
        diagonal = products.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-6)


def test_whitened_patches_are_white() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(3, 3)
    images = torch.einsum("ij,njhw->nihw", mixing, torch.randn(64, 3, 32, 32))
    model = Airbench(channels=3, size=32, classes=10, width=0.125)
    model.whiten(images)
    out = model.whitening(images)[:, :12].transpose(0, 1).flatten(1)
    covariance = out @ out.T / out.shape[1]
    assert torch.allclose(covariance, torch.eye(12), atol=0.05)
    assert torch.equal(model.whitening.weight[12:], -model.whitening.weight[:12])
    assert not model.whitening.weight.requires_grad


def test_a_fresh_block_hands_its_input_on() -> None:
    model = Airbench(channels=3, size=32, classes=10)
    kernel = model.blocks[0][0].weight
    x = torch.randn(1, 24, 8, 8)
    out = nn.functional.conv2d(x, kernel[:24], padding=1)
    assert torch.allclose(out, x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Airbench(channels=3, size=8, classes=10), "size must be 24 or more, got 8"),
        (lambda: Airbench(channels=3, size=32, classes=10, width=0.001), "without channels"),
        (lambda: ViT(channels=3, size=30, classes=10), "patch must divide size 30, got 16"),
        (lambda: ViT(channels=3, size=32, classes=10, heads=5), "heads must divide dim 768"),
        (lambda: GPT(vocabulary=5, dim=10, heads=4), "must divide dim 10, got 4 heads"),
        (lambda: mlp(channels=1, size=8, classes=10, depth=1), "depth must be at least 2, got 1"),
    ],
)
def test_a_network_that_cannot_be_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_networks_are_found_by_name_and_kind() -> None:
    assert find_model("gpt-tiny", text=True).name == "gpt-tiny"
    with pytest.raises(LabError, match="not for images: choose one of cnn"):
        find_model("gpt-tiny", text=False)
    with pytest.raises(LabError, match="did you mean 'airbench'"):
        find_model("airbensh", text=False)
