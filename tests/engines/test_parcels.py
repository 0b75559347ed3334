"""Messages that travel together are answered each by its own node, whatever becomes of the parcel."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.engines import parcels
from zowarmup.engines.parcels import Parcels
from zowarmup.engines.transport import Received

NODES = range(100, 160)


class Post:
    """A transport whose nodes live in one process, which knows those that it has been asked of."""

    ordered = True

    def __init__(self, answer: Callable[[int, bytes], bytes] = lambda node, content: b"%d:" % node + content) -> None:
        self.sent: list[tuple[int, bytes]] = []
        self.pending: list[tuple[str, int, bytes]] = []
        self.known: set[int] = set()
        self.full = False
        self.lost = ""
        self.instead: bytes | None = None
        self._answer = answer

    def nodes(self) -> list[int]:
        return list(NODES)

    def send(self, batch: Sequence[tuple[int, bytes]], *, seconds: float) -> list[str | None]:
        names: list[str | None] = []
        for node, content in batch:
            names.append(None if self.full else f"post-{len(self.sent)}")
            self.sent.append((node, content))
            if not self.full:
                self.pending.append((f"post-{len(self.sent) - 1}", node, content))
        return names

    def receive(self) -> list[Received]:
        found, self.pending = self.pending, []
        return [self._come(*each) for each in found]

    def _come(self, name: str, node: int, content: bytes) -> Received:
        self.known.add(node)
        together = parcels.answer(content, self._ask)
        if together is None:
            return Received(name, node, self._answer(node, content))
        if self.lost:
            return Received(name, node, None, self.lost)
        return Received(name, node, together if self.instead is None else self.instead)

    def _ask(self, node: int, content: bytes) -> bytes | None:
        return self._answer(node, content) if node in self.known else None


def acquainted(post: Post) -> Parcels:
    """Parcels whose nodes have all answered once."""
    made = Parcels(post)
    made.send([(node, b"who is there") for node in NODES], seconds=1.0)
    assert len(list(made.receive())) == len(post.sent) == len(NODES), "who has never answered is asked alone"
    post.sent.clear()
    return made


def answers(made: Parcels, batch: Sequence[tuple[int, bytes]]) -> list[bytes | str | None]:
    """What comes for each message, in the messages' order: content or error."""
    names = made.send(batch, seconds=1.0)
    came: dict[str, Received] = {}
    for _ in range(3):
        for received in made.receive():
            assert received.message not in came, "twice"
            came[received.message] = received
    assert set(came) == {name for name in names if name is not None}
    for name, (node, _) in zip(names, batch, strict=True):
        assert name is None or came[name].node == node
    return [None if name is None else came[name].content or came[name].error for name in names]


@given(
    st.lists(st.tuples(st.sampled_from(NODES), st.binary(max_size=20) | st.just(b"%" * 8193)), max_size=120),
    st.sets(st.sampled_from(NODES)),
)
def test_every_message_has_the_answer_of_its_node(batch: list[tuple[int, bytes]], forgotten: set[int]) -> None:
    post = Post()
    made = acquainted(post)
    post.known -= forgotten
    assert answers(made, batch) == [b"%d:" % node + content for node, content in batch]


def test_few_messages_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    post = Post()
    made = acquainted(post)
    answers(made, [(node, b"work") for node in NODES])
    assert len(post.sent) == 8, "eight at a time, so that two processors have four parcels each"
    post.sent.clear()
    answers(made, [(node, b"work") for node in list(NODES) * 4])
    assert len(post.sent) == 15, "sixteen are the most"
    post.sent.clear()
    answers(made, [(node, b"work") for node in NODES[:8]])
    assert [content for _, content in post.sent] == [b"work"] * 8


def test_what_answers_at_length_goes_alone() -> None:
    """So that no message has the models of many nodes in it."""
    asked: list[int] = []

    def answer(node: int, content: bytes) -> bytes:
        asked.append(node)
        return content * 50_000

    post = Post(answer)
    made = acquainted(post)
    asked.clear()
    assert answers(made, [(node, b"ab") for node in NODES]) == [b"ab" * 50_000] * len(NODES)
    assert sorted(asked) == list(NODES), "nobody works twice"
    alone = [content for _, content in post.sent if content == b"ab"]
    assert len(alone) >= len(NODES) - 4 * 16


def test_a_lost_parcel_is_lost_to_all_in_it() -> None:
    post = Post()
    made = acquainted(post)
    post.lost = "the process died"
    assert answers(made, [(node, b"work") for node in list(NODES) * 4]) == ["the process died"] * 240


@pytest.mark.parametrize("instead", [b"", b"nonsense", b"\x92\xa7answers\x91\xc0"])
def test_answers_that_are_none_are_errors(instead: bytes) -> None:
    post = Post()
    made = acquainted(post)
    post.instead = instead
    for answer in answers(made, [(node, b"work") for node in list(NODES) * 4]):
        assert isinstance(answer, str) and answer.startswith("a parcel ")


def test_what_cannot_be_sent_has_no_name_or_an_error() -> None:
    post = Post()
    made = acquainted(post)
    post.full = True
    assert made.send([(node, b"work") for node in NODES], seconds=1.0) == [None] * len(NODES)
    post.full = False
    names = made.send([(node, b"work") for node in list(NODES) * 4], seconds=1.0)
    post.known.clear()  # but for the first in each parcel, which are undone
    post.full = True
    came = {received.message: received for received in made.receive()}
    assert set(came) == set(names)
    assert "the message could not be sent" in {received.error for received in came.values()}
    assert {type(received.content) for received in came.values()} == {bytes, type(None)}
