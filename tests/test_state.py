"""Digests of states: what they cover, and that they do not depend on how tensors lie in memory."""

import hashlib

import numpy as np
import pytest
import torch

from zowarmup.state import State, moments_digest, tree


def blake2b(content):
    return hashlib.blake2b(content, digest_size=32).digest()


def test_a_tree_hashes_the_hashes_of_pieces():
    content = np.random.default_rng(0).integers(0, 256, 5 * 2**20 + 17, np.uint8)
    pieces = [content[at : at + 2**20].tobytes() for at in range(0, content.size, 2**20)]
    assert tree(torch.from_numpy(content)) == blake2b(b"".join(map(blake2b, pieces)))
    assert tree(torch.zeros(0)) == blake2b(b"")


def test_a_tree_is_of_the_elements_in_c_order():
    matrix = torch.arange(12.0).reshape(3, 4)
    assert tree(matrix.T) == tree(matrix.T.contiguous()) != tree(matrix)
    assert tree(matrix[:, 1]) == tree(torch.tensor([1.0, 5.0, 9.0]))
    assert tree(matrix) == tree(matrix.reshape(-1))
    assert tree(torch.tensor(3)) == blake2b(blake2b((3).to_bytes(8, "little")))
    assert tree(torch.tensor([True, False])) == blake2b(blake2b(b"\1\0"))
    assert tree(torch.nn.Parameter(matrix)) == tree(matrix)


def state(**buffers):
    return State(torch.arange(4.0), buffers, {"v": 1.0})


OTHERS = {
    "another weight": State(torch.tensor([0.0, 1.0, 2.0, 4.0])),
    "a negative zero": State(torch.tensor([-0.0, 1.0, 2.0, 3.0])),
    "a buffer": state(mean=torch.zeros(2)),
    "a buffer's value": state(mean=torch.ones(2)),
    "a buffer's name": state(means=torch.zeros(2)),
    "a buffer's shape": state(mean=torch.zeros(2, 1)),
    "a buffer's type": state(mean=torch.zeros(2, dtype=torch.int32)),
    "two buffers": state(mean=torch.zeros(2), var=torch.ones(2)),
    "two buffers the other way about": state(mean=torch.ones(2), var=torch.zeros(2)),
}


def test_a_states_digest_covers_every_bit_of_weights_and_buffers():
    digests = {other.digest() for other in (state(), *OTHERS.values())}
    assert len(digests) == len(OTHERS) + 1


def test_it_depends_neither_on_the_order_of_buffers_nor_on_the_phase_state():
    mean, var = torch.zeros(2), torch.ones(2)
    assert state(mean=mean, var=var).digest() == state(var=var, mean=mean).digest()
    assert State(torch.arange(4.0)).digest() == state().digest()
    assert state().weights_digest() == state(mean=mean).weights_digest() != state().digest()


def test_moments_are_the_tensors_of_a_phase_state():
    momentum = torch.zeros(3, dtype=torch.float64)
    assert State(torch.zeros(3), {}, {"v": 1.0}).moments() == {}
    assert State(torch.zeros(3), {}, {"v": 1.0, "m": momentum}).moments() == {"m": momentum}
    assert moments_digest({}) == ""
    assert moments_digest({"m": momentum}) != moments_digest({"n": momentum}) != moments_digest({"n": momentum.float()})


def test_a_phase_begins_without_what_the_last_one_remembered():
    before = state(mean=torch.zeros(2))
    assert before.begun().phase == {}
    assert before.begun().digest() == before.digest()
    assert before.begun().begun() is not before
    fresh = State(torch.zeros(1))
    assert fresh.begun() is fresh


def test_model_bytes_are_those_of_weights_and_buffers():
    assert state(mean=torch.zeros(2), count=torch.tensor(1)).model_bytes == 16 + 8 + 8


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn], ids=str)
def test_a_type_that_snapshots_do_not_have_is_an_error(dtype):
    with pytest.raises(KeyError):
        state(odd=torch.zeros(2, dtype=dtype)).digest()
