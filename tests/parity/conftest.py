"""One thread for the comparisons: their tensors are tiny, and idle workers that spin cost more than
the work."""

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
