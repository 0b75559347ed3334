"""A node's copy of the state: whatever is on the disk, it is the ledger's state or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from zowarmup.directions import select
from zowarmup.engines import replica as module
from zowarmup.engines.replica import Held, Replica, snapshot
from zowarmup.engines.wire import Piece, Position, Step
from zowarmup.errors import ReplayMismatch, WireError
from zowarmup.ledger import Ledger
from zowarmup.replay import Replay
from zowarmup.snapshots import Snapshots


@pytest.fixture
def make(record, tmp_path) -> Callable[..., Replica]:
    def open_(folder: str = "home") -> Replica:
        directions = select(torch.device("cpu"), threads=1)
        return Replica(tmp_path / folder, run=record.head.genesis(), table=record.head.table, directions=directions)

    return open_


def piece(record: Ledger, round: int, *, offset: int = 0, size: int | None = None) -> Piece:
    """A snapshot of the run, or part of it."""
    row = record.row(round)
    state = Replay(record, Snapshots(record.path.parent, record.head.table)).state(round)
    content = snapshot(state, record.head.table, record.head.genesis(), round, row.chain)
    part = content[offset:] if size is None else content[offset : offset + size]
    return Piece(
        run=record.head.genesis(),
        round=round,
        link=row.chain,
        state=row.state,
        offset=offset,
        total=len(content),
        content=part,
    )


def go(held: Replica, record: Ledger, first: int, last: int) -> Held | None:
    """Advance over some rounds."""
    steps = tuple(Step(row.phase, row.entry, row.metrics, row.state) for row in record.rows(first, last))
    return held.advance(steps, round=last, link=record.row(last).chain)


def at(record: Ledger, round: int) -> Position:
    return Position(record.head.genesis(), round, record.row(round).chain)


def test_a_snapshot_and_rounds_lead_to_the_states_of_the_ledger(record, make):
    held = make()
    assert held.held is None and held.position == Position()
    whole = piece(record, 2)
    assert held.receive(whole, "node") == whole.total
    assert held.position == at(record, 2)
    for first, last in ((3, 3), (4, 7), (8, 12)):
        after = go(held, record, first, last)
        assert after is not None and after.state.digest() == record.row(last).state.hex()
        assert held.position == at(record, last)


def test_it_is_on_the_disk_when_it_is_made_anew(record, make):
    make().receive(piece(record, 2), "node")
    go(make(), record, 3, 6)
    assert make().position == at(record, 6)
    go(make(), record, 7, 7)
    again = make()
    assert again.position == at(record, 7) and again.held.state.digest() == record.row(7).state.hex()


def test_what_another_process_has_done_is_gone_on_with_from_where_it_stands(record, make, monkeypatch):
    one, other, made = make(), make(), []
    one.receive(piece(record, 2), "node")
    assert other.position == at(record, 2)
    go(one, record, 3, 9)
    go(other, record, 3, 4)
    stepped = Replica._stepped
    monkeypatch.setattr(Replica, "_stepped", lambda *given: made.append(len(given[2])) or stepped(*given))
    assert go(other, record, 10, 11).round == 11
    assert made == [5, 2], "from the disk, then what came"
    monkeypatch.undo()
    assert make().position == other.position == at(record, 11)


def test_rounds_that_were_made_already_are_passed_over(record, make):
    held = make()
    held.receive(piece(record, 2), "node")
    go(held, record, 3, 5)
    assert go(held, record, 3, 5).round == 5
    assert go(held, record, 4, 8).round == 8
    assert make().position == at(record, 8)


@pytest.mark.parametrize(("first", "last"), [(5, 6), (2, 3)], ids=["a gap", "behind"])
def test_rounds_that_do_not_lead_there_change_nothing(first, last, record, make):
    held = make()
    held.receive(piece(record, 3), "node")
    if last < 4:
        go(held, record, 4, 6)
    before = held.position
    assert go(held, record, first, last) is None
    assert held.position == make().position == before


def test_without_a_state_no_rounds_lead_anywhere(record, make):
    assert go(make(), record, 3, 4) is None
    assert make().advance((), round=0, link=record.row(0).chain) is None


def steps(record: Ledger, first: int, last: int, **changes: object) -> tuple[Step, ...]:
    """Rounds, the last of them changed."""
    *all_but, final = (Step(row.phase, row.entry, row.metrics, row.state) for row in record.rows(first, last))
    return (*all_but, msgspec.structs.replace(final, **changes))


def test_rounds_that_lead_to_another_state_are_refused_and_change_nothing(record, make):
    held = make()
    held.receive(piece(record, 2), "node")
    odd = steps(record, 3, 4, entry=record.row(5).entry)
    with pytest.raises(
        ReplayMismatch, match=r"round 4: what this node holds is blake2b:\w+, the ledger says"
    ) as caught:
        held.advance(odd, round=4, link=record.row(4).chain)
    assert caught.value.round == 4 and caught.value.expected == record.row(4).state.hex()
    assert held.position == make().position == at(record, 2)


def test_a_first_order_round_needs_its_snapshot(record, make):
    held = make()
    held.receive(piece(record, 1), "node")
    with pytest.raises(WireError, match="round 2: is a first-order round, and came without its snapshot"):
        go(held, record, 2, 3)
    with pytest.raises(WireError, match="round 2: entry of 3 bytes does not decode"):
        held.advance(steps(record, 2, 2, entry=b"odd"), round=2, link=b"")


# what is on the disk


def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.mark.parametrize("lost", [1, 3, 40, 150], ids=lambda lost: f"{lost} bytes")
def test_a_torn_end_of_the_rounds_is_cut_off(lost, record, make, tmp_path):
    held = make()
    held.receive(piece(record, 2), "node")
    for round in (3, 4, 5):
        go(held, record, round, round)
    path = home(tmp_path) / "steps"
    ends = [0]
    content = path.read_bytes()
    while ends[-1] < len(content):
        ends.append(ends[-1] + 4 + int.from_bytes(content[ends[-1] : ends[-1] + 4], "little"))
    path.write_bytes(content[:-lost])
    whole = max(count for count, end in enumerate(ends) if end <= len(content) - lost)
    assert make().position == at(record, 2 + whole) and whole < 3
    assert path.stat().st_size == ends[whole]
    assert go(make(), record, 3 + whole, 6).round == 6
    assert make().position == at(record, 6)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "the base is gone": lambda folder: (folder / "base.safetensors").unlink(),
    "the base is empty": lambda folder: (folder / "base.safetensors").write_bytes(b""),
    "the base has another weight": lambda folder: flip(folder / "base.safetensors", -1),
    "the base has another header": lambda folder: flip(folder / "base.safetensors", 9),
    "a round is another": lambda folder: flip(folder / "steps", 20),
    "a round is of no length": lambda folder: flip(folder / "steps", 3),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_of_a_damaged_folder_nothing_wrong_is_believed_and_a_snapshot_mends_it(damage, record, make, tmp_path):
    make().receive(piece(record, 2), "node")
    go(make(), record, 3, 5)
    damage(home(tmp_path))
    held = make()
    if held.held is not None:  # what does not bear on the state may be another; the server does not know its link
        assert held.held.state.digest() == record.row(held.held.round).state.hex()
        assert held.position in (Position(), at(record, 2)) or held.held.link != record.row(held.held.round).chain
    held.receive(piece(record, 5), "node")
    assert go(held, record, 6, 7).round == 7
    assert make().position == at(record, 7)


def test_a_folder_of_another_run_is_none(record, make, tmp_path):
    make().receive(piece(record, 2), "node")
    directions = select(torch.device("cpu"), threads=1)
    assert Replica(home(tmp_path), run=b"other", table=record.head.table, directions=directions).held is None


# snapshots in pieces


def test_pieces_go_on_where_they_were_when_it_is_made_anew(record, make, tmp_path):
    total = piece(record, 2).total
    assert make().receive(piece(record, 2, size=3000), "node") == 3000
    assert make().receive(piece(record, 2, size=3000), "node") == 3000  # it is here already
    assert make().receive(piece(record, 2, offset=6000, size=3000), "node") == 3000  # and this one is not next
    assert make().receive(piece(record, 2, offset=3000), "node") == total
    assert make().position == at(record, 2)
    assert not list(home(tmp_path).glob("*.part"))


def test_parts_of_clients_that_share_a_folder_do_not_mix(record, make):
    make().receive(piece(record, 2, size=3000), "client-1")
    assert make().receive(piece(record, 2, size=1000), "client-2") == 1000
    assert make().receive(piece(record, 2, offset=3000), "client-1") == piece(record, 2).total
    assert make().receive(piece(record, 2, offset=1000), "client-2") == piece(record, 2).total
    assert make().position == at(record, 2)


def test_what_a_killed_process_left_of_a_snapshot_in_one_piece_does_no_harm(record, make, tmp_path):
    whole = piece(record, 2)
    make().receive(piece(record, 2, size=777), "node")
    assert len(list(home(tmp_path).glob("*.part"))) == 1
    assert make().receive(whole, "node") == whole.total
    assert make().position == at(record, 2)


@pytest.mark.parametrize("field", ["run", "round", "link", "state"])
def test_a_snapshot_of_another_place_is_dropped(field, record, make, tmp_path):
    held = make()
    held.receive(piece(record, 2), "node")
    value = 4 if field == "round" else b"other"
    with pytest.raises(WireError, match="the snapshot that came is that of round 3, or another run's"):
        held.receive(msgspec.structs.replace(piece(record, 3), **{field: value}), "node")
    assert held.position == make().position == at(record, 2)
    assert not list(home(tmp_path).glob("*.part"))


# clients that share a folder


def test_two_clients_in_one_folder_go_on_from_what_the_other_has(record, make):
    one, other = make(), make()
    one.receive(piece(record, 2), "client-1")
    assert go(other, record, 3, 4).round == 4
    assert go(one, record, 3, 5).round == 5
    assert go(other, record, 5, 6).round == 6
    other.receive(piece(record, 9), "client-2")
    assert go(one, record, 10, 11).round == 11
    assert go(other, record, 10, 11).round == 11
    assert make().position == at(record, 11)


def test_a_client_that_is_slow_does_not_take_back_what_another_wrote(record, make):
    fast, slow = make(), make()
    for each, name in ((fast, "client-1"), (slow, "client-2")):
        each.receive(piece(record, 2), name)
    go(fast, record, 3, 8)
    assert go(slow, record, 3, 5).round == 5
    assert make().position == at(record, 8)


def test_a_client_that_begins_with_an_older_snapshot_leaves_no_gap_in_the_folder(record, make):
    fast, slow = make(), make()
    fast.receive(piece(record, 2), "client-1")
    go(fast, record, 3, 8)
    slow.receive(piece(record, 3), "client-2")
    assert go(fast, record, 9, 9).round == 9
    assert make().position == at(record, 9)


@pytest.mark.parametrize("name", ["_MOST", "_REBASE"])
def test_many_rounds_behind_the_snapshot_make_a_new_one(name, record, make, tmp_path, monkeypatch):
    monkeypatch.setattr(module, name, 3 if name == "_MOST" else 3 * 3 * record.head.table.size)
    held = make()
    held.receive(piece(record, 2), "node")
    path = home(tmp_path) / "steps"
    for round in (3, 4, 5):
        go(held, record, round, round)
        assert path.exists()
    go(held, record, 6, 6)
    assert not path.exists() and make().position == at(record, 6)
    held.receive(piece(record, 7), "node")
    for round in (8, 9, 10):
        go(held, record, round, round)
    assert path.exists() and make().position == at(record, 10)  # counted from the snapshot on
