"""A federation of nodes: the bits of the in-process engine, and what is waited for."""

from __future__ import annotations

import random
import shutil

import pytest

import zowarmup
from zowarmup.engines import supply, wire
from zowarmup.engines.rounds import Patience
from zowarmup.errors import QuorumError, RecipeError
from zowarmup.experiment import prepare

from .fleet import Fleet, Later, at_work, counted, short, stop_after, works

EVERYBODY, HIGH = (0, 1, 2, 3), (0, 2)
ZEROTH = 4
"""A zeroth-order round of `short()`."""

KINDS = {
    "first-order and zeroth-order": short(),
    "head": short("digits-zowarmup-head", phase__1__rounds=2, phase__2__rounds=2),
    "statistics": short("digits-statistics", phase__1__rounds=2),
    "mixed": short("digits-hi-lo", phase__1__rounds=2),
    "sub-network": short("digits-heterofl", phase__1__rounds=2),
    "exact slopes": short("digits-exact-slopes", phase__1__directions=6, phase__1__rounds=2),
    "a pool of the run": short("digits-fedkseed", phase__1__pool=4, phase__1__local_steps=5, phase__1__cohort=3),
    "local steps and a server optimiser": short(
        "digits-decomfl", phase__0__server="fedadam", phase__0__server_lr=0.01, phase__1__cohort=3
    ),
}


@pytest.mark.parametrize("recipe", KINDS.values(), ids=KINDS)
def test_nodes_give_the_bits_of_one_process(recipe, alone, fleet, small):
    trained = fleet(recipe, apart=True).run()
    for name in ("state_digest", "chain"):
        assert trained.summary[name] == alone(recipe)[name]


@pytest.mark.parametrize("catch_up", ["bytes", "work"])
def test_cohorts_catch_up_with_what_they_missed(catch_up, alone, fleet):
    recipe = short(phase__1__cohort=2, phase__1__rounds=8, run__catch_up=catch_up)
    made = fleet(recipe)
    assert made.run().summary["chain"] == alone(recipe)["chain"]
    lengths = {len(asked.steps) for node in made.lists.fleet for asked in works(made, node)}
    assert max(lengths) > 1 if catch_up == "bytes" else lengths <= {0, 1, 2}


def test_the_order_of_answers_does_not_matter(alone, fleet):
    made = fleet(short())
    draw = random.Random(0)
    made.lists.meddle = lambda node, question, answer: [Later(draw.random(), answer)]
    assert made.run().summary["chain"] == alone(short())["chain"]


def test_a_recipe_whose_first_order_rounds_leave_no_snapshot_is_refused(fleet):
    with pytest.raises(RecipeError, match="nodes do not run a round again") as caught:
        fleet(short(run__snapshot_every=2)).run()
    assert caught.value.hint == "run.snapshot-every = 1"


# who is waited for, and for how long: the clock is a fake one


def silent(*clients: int, rounds=range(1, 100)):
    """Answers that never come."""
    return lambda node, question, answer: (
        [] if node - 100 in clients and at_work(question) in rounds and at_work(question) else [answer]
    )


def test_a_round_waits_for_its_deadline_and_no_longer(tmp_path, fleet):
    made = fleet(short(), patience=Patience(deadline_seconds=20.0))
    made.lists.meddle = silent(2, rounds=[ZEROTH])
    made.run(tmp_path / "run")
    assert counted(tmp_path / "run")[ZEROTH] == (0, 1, 3)
    assert 20 < made.time.seconds < 22
    assert any(said.startswith("round 4: waiting for 1 of 4 clients (2), until") for said in made.said)


def test_a_round_waits_beyond_its_deadline_for_a_quorum(alone, fleet):
    made = fleet(short(), patience=Patience(quorum=1.0))
    made.lists.meddle = lambda node, question, answer: (
        [Later(100, answer)] if (node, at_work(question)) == (102, ZEROTH) else [answer]
    )
    assert made.run().summary["chain"] == alone(short())["chain"]
    assert 100 < made.time.seconds < 102


def test_without_a_quorum_the_run_stops_and_goes_on_when_nodes_are_back(tmp_path, alone, fleet):
    made = fleet(short(), patience=Patience(quorum=0.75, give_up_seconds=300.0))
    made.lists.meddle = silent(1, 2, rounds=[ZEROTH])
    with pytest.raises(QuorumError) as caught:
        made.run(tmp_path / "run")
    assert caught.value.message == (
        "round 4: 2 of 4 clients reported, the quorum is 3; client 1: no answer; client 2: no answer"
    )
    assert caught.value.round == ZEROTH and 300 < made.time.seconds < 302
    assert max(counted(tmp_path / "run")) == ZEROTH - 1
    made.lists.meddle = silent()
    assert made.resume(tmp_path / "run").summary["chain"] == alone(short())["chain"]


def test_where_everybody_fails_nobody_waits(tmp_path, fleet):
    made = fleet(short())
    failed = wire.encode(wire.Failed(fault="work", error="out of memory"))
    made.lists.meddle = lambda node, question, answer: [failed if at_work(question) == ZEROTH else answer]
    with pytest.raises(QuorumError, match=r"client 0: out of memory; .*client 2: out of memory; \.\.\."):
        made.run(tmp_path / "run")
    assert made.time.seconds < 5


def test_with_enough_reports_nobody_waits_for_stragglers(tmp_path, fleet):
    made = fleet(short(phase__1__rounds=5), patience=Patience(quorum=0.5, enough=0.5))
    made.lists.meddle = lambda node, question, answer: [Later(0.05, answer) if node in (101, 103) else answer]
    made.run(tmp_path / "run")
    assert [counted(tmp_path / "run")[round] for round in (3, 4, 5, 6, 7)] == [HIGH] * 5
    assert made.time.seconds < 5
    assert made.last.board.status()["late"] > 0


def test_drop_outs_at_random_are_left_out_and_nobody_counts_twice(tmp_path, fleet):
    recipe = short(data__clients=6, phase__1__rounds=8)
    draw = random.Random(1)
    gone = {(client, round) for round in range(1, 11) for client in range(6) if draw.random() < 0.3}
    made = fleet(recipe, patience=Patience(deadline_seconds=5.0, quorum=0.1))
    high = prepare(recipe, device="cpu").federation.members("high")

    def meddle(node: int, question: bytes, answer: bytes):
        dropped = (node - 100, at_work(question)) in gone
        return [Later(draw.uniform(5.5, 9), answer)] if dropped else [answer]

    made.lists.meddle = meddle
    made.run(tmp_path / "run")
    asked = {round: high if round < 3 else range(6) for round in range(1, 11)}
    there = {round: tuple(c for c in clients if (c, round) not in gone) for round, clients in asked.items()}
    assert counted(tmp_path / "run") == there
    missed = sum(len(asked[round]) - len(clients) for round, clients in there.items())
    assert made.last.board.status()["drop_outs"] == missed > 5
    assert made.time.seconds < 10 * 6


def test_a_node_that_vanishes_at_work_is_asked_again_when_it_is_back(alone, fleet):
    made = fleet(short())

    def vanish(node: int, question: bytes) -> bytes | None:
        if (node, at_work(question)) == (102, ZEROTH):
            del made.lists.fleet[102]
            made.time.at[made.time.seconds + 3] = lambda: made.join(200, made.node(2))
            return None
        return question

    made.lists.change = vanish
    made.patience = Patience(quorum=1.0)
    assert made.run().summary["chain"] == alone(short())["chain"]
    assert works(made, 200)[0].round + 1 == ZEROTH
    assert 3 < made.time.seconds < 6


def test_a_round_does_not_wait_long_for_nodes_that_are_gone(tmp_path, fleet):
    made = fleet(short())
    made.lists.change = lambda node, question: (
        made.lists.fleet.pop(102, None) and None if (node, at_work(question)) == (102, ZEROTH) else question
    )
    made.run(tmp_path / "run")
    assert [counted(tmp_path / "run")[round] for round in (3, 4, 5)] == [EVERYBODY, (0, 1, 3), (0, 1, 3)]
    assert made.time.seconds < 6


def test_a_node_may_join_late(tmp_path, fleet):
    made = fleet(short(phase__1__rounds=7), nodes=3)
    late = made.lists.fleet.pop(103)
    made.time.at = {3.5: lambda: made.join(103, late)}
    made.run(tmp_path / "run")
    members = [3 in clients for round, clients in counted(tmp_path / "run").items() if round > 2]
    assert members == sorted(members) and set(members) == {False, True}
    first, *others = works(made, 103)
    assert first.round > 2 and first.snapshot is not None
    assert all(asked.snapshot is None and len(asked.steps) == 1 for asked in others)


def test_a_run_does_not_begin_without_nodes(tmp_path):
    made = Fleet(tmp_path / "nodes", short(), patience=Patience(join_seconds=90.0))
    with pytest.raises(QuorumError, match=r"^0 of 4 nodes have come in 90 seconds\nhint: `zowarmup join`"):
        made.run(tmp_path / "run")
    assert 90 < made.time.seconds < 92
    assert made.said[0].startswith("waiting for nodes: 0 of 4 are there, until")


def test_where_nodes_were_turned_away_the_server_says_why(tmp_path, fleet):
    made = fleet(short())
    made.join(103, made.node(9))
    with pytest.raises(QuorumError, match=r"3 of 4 nodes .*; node 103: there is no client 9: clients are 0 to 3"):
        made.run(tmp_path / "run")


@pytest.mark.parametrize("kind", [wire.Enrol, wire.Welcome, wire.Work, wire.Piece])
def test_no_question_is_waited_for_without_end(kind, tmp_path, fleet, monkeypatch):
    monkeypatch.setattr(supply, "PIECE_BYTES", 2000)
    made = fleet(short(), patience=Patience(join_seconds=70.0, give_up_seconds=80.0))
    made.lists.meddle = lambda node, question, answer: (
        [] if isinstance(wire.decode_question(question), kind) else [answer]
    )
    with pytest.raises(QuorumError):
        made.run(tmp_path / "run")
    assert 70 < made.time.seconds < 82


def test_a_welcome_that_is_not_heard_is_sent_again_now_and_then(alone, fleet):
    made = fleet(short())
    made.lists.change = lambda node, question: (
        None
        if node == 102 and isinstance(wire.decode_question(question), wire.Welcome) and made.time.seconds < 5
        else question
    )
    assert made.run().summary["chain"] == alone(short())["chain"]
    assert 4 < sum(isinstance(asked, wire.Welcome) for asked in made.lists.asked(102)) < 9


def test_a_node_that_was_turned_away_may_come_back_as_another(tmp_path, fleet):
    made = fleet(short())
    made.join(103, made.node(9))
    made.time.at = {5.0: lambda: made.lists.fleet.pop(103), 8.0: lambda: made.join(103, made.node(3))}
    made.run(tmp_path / "run")
    assert counted(tmp_path / "run")[3] == EVERYBODY
    kinds = [type(asked) for asked in made.lists.asked(103)]
    assert kinds.count(wire.Enrol) == 2 and kinds.count(wire.Turned) == 1


# killed, and started anew


@pytest.mark.parametrize("after", range(6))
def test_a_server_that_stops_after_any_round_goes_on(after, tmp_path, alone, fleet):
    made = fleet(short())
    with pytest.raises(KeyboardInterrupt):
        made.run(tmp_path / "run", callbacks=[stop_after(after)])
    made.lists.sent.clear()
    assert made.resume(tmp_path / "run").summary["chain"] == alone(short())["chain"]
    if 3 <= after < 5:
        assert [len(works(made, node)[0].steps) for node in made.lists.fleet] == [1, 1, 1, 1]


def test_nodes_that_lose_their_memory_are_sent_only_what_they_lack(alone, fleet):
    made = fleet(short(phase__1__rounds=4))

    def forgetful(node: int, question: bytes) -> bytes:
        if at_work(question) >= ZEROTH:
            made.join(node, made.node(node - 100))
        return question

    made.lists.change = forgetful
    assert made.run().summary["chain"] == alone(short(phase__1__rounds=4))["chain"]
    for node in made.lists.fleet:
        later = [asked for asked in works(made, node) if asked.round + 1 >= ZEROTH]
        assert len(later) == 3 and all(asked.snapshot is None and len(asked.steps) == 1 for asked in later)


def test_a_node_that_loses_its_disk_is_sent_a_snapshot(alone, fleet):
    made, lost = fleet(short()), [2]

    def lose(node: int, question: bytes) -> bytes:
        if (node, at_work(question)) == (102, ZEROTH) and lost:
            shutil.rmtree(made.home / "node-2")
            made.join(102, made.node(lost.pop()))
        return question

    made.lists.change = lose
    assert made.run().summary["chain"] == alone(short())["chain"]
    first, again, later = works(made, 102)[-3:]
    assert first.round == again.round and again.snapshot is not None and later.snapshot is None


@pytest.mark.parametrize(
    ("nodes_at", "server_at"), [(4, 4), (5, 3), (4, 5)], ids=["at the same round", "ahead", "behind"]
)
def test_nodes_that_hold_a_state_of_another_chain_are_sent_a_snapshot(nodes_at, server_at, tmp_path, alone, fleet):
    recipe = short(phase__1__rounds=4)
    made = fleet(recipe, patience=Patience(deadline_seconds=1.0))
    made.lists.meddle = silent(2, rounds=[3])
    with pytest.raises(KeyboardInterrupt):
        made.run(tmp_path / "other", callbacks=[stop_after(nodes_at)])
    with pytest.raises(KeyboardInterrupt):
        zowarmup.run(recipe, out=tmp_path / "run", device="cpu", callbacks=[stop_after(server_at)])
    made.lists.meddle = silent()
    made.lists.sent.clear()
    assert made.resume(tmp_path / "run").summary["chain"] == alone(recipe)["chain"]
    assert all(works(made, node)[0].snapshot is not None for node in made.lists.fleet)


def test_nodes_take_part_in_one_run_after_the_other(alone, fleet):
    made = fleet(short())
    made.run()
    made.recipe = short(seed=1)
    assert made.run().summary["chain"] == alone(made.recipe)["chain"]
    made.recipe = short()
    assert made.run().summary["chain"] == alone(made.recipe)["chain"]
    assert len(list((made.home / "node-0").iterdir())) == 2


# large snapshots


@pytest.fixture
def pieces(monkeypatch):
    """Snapshots come in pieces of 4000 bytes: three."""
    monkeypatch.setattr(supply, "PIECE_BYTES", 4000)


def offsets(made: Fleet, node: int, round: int) -> list[int]:
    asked = made.lists.asked(node)
    return [question.offset for question in asked if isinstance(question, wire.Piece) and question.round == round]


def test_a_large_snapshot_comes_in_pieces(pieces, alone, fleet):
    made = fleet(short())
    assert made.run().summary["chain"] == alone(short())["chain"]
    assert offsets(made, 100, 0) == [0, 4000, 8000]
    assert not list(made.home.glob("**/*.part"))


def test_a_snapshot_goes_on_where_it_was_when_a_node_is_started_anew(pieces, alone, fleet):
    made = fleet(short())

    def kill(node: int, question: bytes) -> bytes | None:
        piece = wire.decode_question(question)
        if node == 102 and isinstance(piece, wire.Piece) and piece.offset == 8000:
            del made.lists.fleet[102]
            made.time.at[made.time.seconds + 2] = lambda: made.join(200, made.node(2))
            return None
        return question

    made.lists.change = kill
    made.patience = Patience(quorum=1.0)
    assert made.run().summary["chain"] == alone(short())["chain"]
    assert (offsets(made, 102, 0), offsets(made, 200, 0)) == ([0, 4000, 8000], [0, 8000])


def test_a_piece_that_was_changed_on_the_way_is_sent_again(pieces, alone, fleet):
    made, changed = fleet(short()), []

    def flip(node: int, question: bytes) -> bytes:
        piece = wire.decode_question(question)
        if node != 102 or not isinstance(piece, wire.Piece) or piece.offset != 4000 or changed:
            return question
        changed.append(piece)
        content = piece.content[:-1] + bytes([piece.content[-1] ^ 1])
        return wire.encode(
            wire.Piece(**{**{f: getattr(piece, f) for f in piece.__struct_fields__}, "content": content})
        )

    made.lists.change = flip
    assert made.run().summary["chain"] == alone(short())["chain"]
    assert offsets(made, 102, 0) == [0, 4000, 8000, 0, 4000, 8000]
