import hypothesis
import pytest
import torch

from tests import THREADS

hypothesis.settings.register_profile(
    "normball", deadline=None, derandomize=True, max_examples=60, print_blob=True
)
hypothesis.settings.load_profile("normball")


@pytest.fixture(autouse=True)
def _threads_and_a_seed():
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
