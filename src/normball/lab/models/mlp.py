"""A multi-layer perceptron."""

from torch import nn


def mlp(
    *, channels: int, size: int, classes: int, width: int = 128, depth: int = 3
) -> nn.Sequential:
    """Linear layers with GELU in between, on flattened images; PyTorch's default initialisation.

    It maps images of shape ``(n, channels, size, size)`` to logits of shape ``(n, classes)``.

    Args:
        width: outputs of every hidden layer.
        depth: number of linear layers, at least 2.

    Raises:
        ValueError: if ``depth`` is below 2.
    """
    if depth < 2:
        raise ValueError(f"depth must be at least 2, got {depth}: a hidden layer and the output")
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(channels * size**2, width), nn.GELU()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(width, classes))
