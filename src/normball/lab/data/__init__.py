"""Data sets as tensors, each with one declared split and one declared scaling."""

from normball.lab.data.base import Data, Images, Text
from normball.lab.data.cifar import load_cifar10
from normball.lab.data.digits import load_digits
from normball.lab.data.fashion import load_fashion_mnist
from normball.lab.data.folders import load_imagenet
from normball.lab.data.shards import load_fineweb
from normball.lab.data.text import load_shakespeare

__all__ = [
    "Data",
    "Images",
    "Text",
    "load_cifar10",
    "load_digits",
    "load_fashion_mnist",
    "load_fineweb",
    "load_imagenet",
    "load_shakespeare",
]
