"""Snapshots: what goes in comes out, what was changed is found, and which ones are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zowarmup.disk import Disk
from zowarmup.errors import LedgerError, ReplayMismatch
from zowarmup.protocol import Replacement, Update
from zowarmup.recipe import RunSettings
from zowarmup.snapshots import Keeper, Snapshots, tensors
from zowarmup.state import State
from zowarmup.table import Table

TABLE = Table(("b.weight", "a.bias"), ((2, 3), (2,)))
FAST = Disk(sync=False)


def state() -> State:
    buffers = {"n.running_mean": torch.tensor([1.0, -0.0]), "n.count": torch.tensor(7), "n.half": torch.ones(2).half()}
    moments = {"m": torch.arange(8, dtype=torch.float64), "v": torch.full((8,), 1e-300, dtype=torch.float64)}
    return State(torch.tensor([1.0, -2, 3, float("nan"), 5, 6, -0.0, 1e-40]), buffers, moments)


@pytest.fixture
def kept(tmp_path):
    snapshots = Snapshots(tmp_path, TABLE)
    return snapshots, *snapshots.write(state(), FAST)


def test_what_goes_in_comes_out(kept):
    snapshots, file, moments = kept
    assert file.digest.hex() == state().digest()
    back = snapshots.read(file)
    assert back.weights.numpy().tobytes() == state().weights.numpy().tobytes()
    assert back.digest() == state().digest() and set(back.buffers) == set(state().buffers)
    assert all(map(torch.equal, snapshots.read_moments(moments).values(), state().moments().values()))
    assert sorted(path.name for path in snapshots.folder.iterdir()) == sorted(
        f"{each.digest.hex()}.safetensors" for each in (file, moments)
    )


def test_names_and_shapes_are_those_of_the_module():
    named = tensors(state(), TABLE)
    assert list(named)[:2] == ["b.weight", "a.bias"]
    assert named["b.weight"].shape == (2, 3) and named["n.count"].shape == ()


def test_any_byte_changed_is_found(kept):
    snapshots, file, _ = kept
    path = snapshots.path(file.digest)
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x20]) + content[at + 1 :])
        with pytest.raises(LedgerError, match=r"was changed: the file is blake2b:[0-9a-f]{12}, the ledger says"):
            snapshots.read(file)
    path.write_bytes(content[:-1])
    with pytest.raises(LedgerError, match=f"has {len(content) - 1} bytes, expected {len(content)}"):
        snapshots.read(file)
    path.unlink()
    with pytest.raises(LedgerError, match="is missing"):
        snapshots.read(file)


def test_a_file_of_another_state_is_found_by_its_tensors(kept, tmp_path):
    snapshots, file, moments = kept
    (other,) = snapshots.write(State(torch.zeros(8)), FAST)
    snapshots.path(other.digest).replace(snapshots.path(file.digest))
    with pytest.raises(ReplayMismatch, match="its name says"):
        snapshots.read(file._replace(file=other.file, bytes=other.bytes))
    with pytest.raises(LedgerError, match=r"lacks b\.weight, a\.bias"):
        snapshots.read(moments)
    wider = Snapshots(tmp_path, Table(("b.weight", "a.bias"), ((3, 2), (2,))))
    with pytest.raises(LedgerError, match=r"b\.weight is torch\.float32 \(2, 3\), expected float32 \(3, 2\)"):
        wider.read(snapshots.write(state(), FAST)[0])


def test_rests_are_swept_and_known_files_stay(kept):
    snapshots, file, moments = kept
    for name in (".half.1", "zz.safetensors", "ab.safetensors"):
        (snapshots.folder / name).write_text("x")
    snapshots.sweep({file.digest: file, moments.digest: moments}, FAST)
    assert len(list(snapshots.folder.iterdir())) == 2
    snapshots.remove([file.digest], FAST)
    assert [path.name for path in snapshots.folder.iterdir()] == [f"{moments.digest.hex()}.safetensors"]


def update(directions: int) -> Update:
    return Update(round=1, phase=1, seed=1, coefficients=np.ones(directions, np.int32), exponent=0)


REPLACEMENT = Replacement(round=1, phase=0, snapshot="ab")


def rounds_kept(settings: RunSettings, entries, ends) -> tuple[list[int], list[int]]:
    """Rounds that get a snapshot, and those that still have one at the end."""
    keeper, digests = Keeper(settings, ends, parameters=10), {}
    taken, there = [], set()
    for round, entry in enumerate([None, *entries]):
        if keeper.due(round, max(round - 1, 0), entry):
            digest = bytes([round]) * 32
            digests[digest] = round
            taken.append(round)
            there.add(round)
            there -= {digests[gone] for gone in keeper.add(round, [_file(digest)])}
    return taken, sorted(there)


def _file(digest: bytes):
    from zowarmup.ledger import File

    return File(digest, b"", 0)


@pytest.mark.parametrize(
    "settings, taken, there",
    [
        (RunSettings(), [0, 1, 2, 3, 4, 5, 6, 10], [0, 4, 5, 6, 10]),
        (RunSettings(snapshot_every=3), [0, 3, 6, 10], [0, 3, 6, 10]),
        (RunSettings(keep_snapshots=1), [0, 1, 2, 3, 4, 5, 6, 10], [0, 5, 6, 10]),
        (RunSettings(keep_snapshots="all"), [0, 1, 2, 3, 4, 5, 6, 10], [0, 1, 2, 3, 4, 5, 6, 10]),
        (RunSettings(replay_budget=0), list(range(11)), [0, 6, 8, 9, 10]),
        (RunSettings(replay_budget=50), [0, 1, 2, 3, 4, 5, 6, 8, 10], [0, 5, 6, 8, 10]),
    ],
    ids=str,
)
def test_which_rounds_have_a_snapshot(settings, taken, there):
    """Six first-order rounds, then four with 3 directions over 10 parameters."""
    assert rounds_kept(settings, [REPLACEMENT] * 6 + [update(3)] * 4, ends=[6, 10]) == (taken, there)


def test_a_digest_that_a_kept_round_shares_stays():
    keeper = Keeper(RunSettings(keep_snapshots=1), [9], parameters=10)
    same = _file(b"s" * 32)
    assert keeper.add(0, [same]) == []
    assert keeper.add(1, [same]) == []
    assert keeper.add(2, [_file(b"t" * 32)]) == []
    assert keeper.add(3, [_file(b"u" * 32)]) == [b"t" * 32]
