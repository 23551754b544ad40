import pytest
import torch

from nwslib.meta import runs, runs_view
from nwslib.snapshots import fake
from nwslib.space import sample


@pytest.fixture(scope="module")
def view():
    return runs_view(next(fake.population(sample("nws_small", 1, seed=0))), 64, snapshots=range(1, 21))


@pytest.mark.parametrize("size", [1, 7, 1000, 2**21 + 3])
def test_weights_lie_where_vector_instructions_want_them(size):
    for _ in range(5):  # the system gives another place each time
        taken = runs._empty(size, torch.device("cpu"))
        assert taken.shape == (size,)
        assert taken.dtype == torch.float32
        assert taken.data_ptr() % 64 == 0
        assert taken.untyped_storage().nbytes() >= 4 * size


def test_a_batch_is_its_readers_alone(view):
    rows, kept = torch.arange(len(view.room)), view.weights.clone()
    first = view.gather(rows, torch.zeros_like(rows))
    before = first.clone()
    second = view.gather(rows, torch.ones_like(rows))
    assert torch.equal(first, before)
    assert torch.equal(first[:, 1:], second[:, :-1])
    first.zero_()
    assert torch.equal(view.weights, kept)
    assert torch.equal(second[:, :-1], before[:, 1:])
