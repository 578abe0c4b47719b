"""The networks of the experiments."""

from normball.lab.models.cnn import small_cnn

__all__ = ["small_cnn"]
