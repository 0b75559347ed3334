"""What a server and its nodes say to each other: envelopes around the messages of a round, in msgpack, strictly typed.

    Enrol    -> Card       who is there: which client, which tier, what it holds already
    Welcome  -> Ready      which client a node is, and what the run is
    Piece    -> Got        part of a snapshot
    Work     -> Done       what to catch up with, and a request; the report
    Idle     -> Ready      whether a node that has long been silent is still at work: it answers when it is not
    Turned   -> Bye        this node can take no part
    Over     -> Bye        the run has ended

A node may answer anything with ``Behind`` (it holds another state than the server thinks) or ``Failed``. Nothing is
ever unpickled. The server speaks first, always: devices behind a firewall only ever ask for their messages.
"""

from __future__ import annotations

from typing import Annotated, Literal, cast

import msgspec
from msgspec import Meta

from zowarmup.errors import WireError

VERSION = 1
"""Of these envelopes and of the messages within; both sides must have the same."""

Fault = Literal["work", "data", "model", "recipe", "version"]
"""What went wrong: the work asked for, or why a node can take no part."""


class Position(msgspec.Struct, frozen=True, array_like=True):
    """The state that a node holds."""

    run: bytes = b""
    """The run's genesis; empty where it holds none."""
    round: int = -1
    link: bytes = b""
    """Of that round in the ledger."""


class Step(msgspec.Struct, frozen=True, array_like=True):
    """A round of the ledger, without what a replica can work out: its number and its link."""

    phase: int
    entry: bytes
    metrics: bytes
    state: bytes


class _Envelope(msgspec.Struct, frozen=True, kw_only=True, tag=True, rename="kebab"):
    pass


class Enrol(_Envelope, frozen=True, kw_only=True):
    """Say who you are."""

    version: int = VERSION
    recipe: str
    """Resolved, TOML."""


class Welcome(_Envelope, frozen=True, kw_only=True):
    """Take part as this client."""

    recipe: str
    """As enrolled for."""
    client: int
    token: bytes
    """What the node shows when it comes back as this client."""
    run: bytes
    table: bytes
    """Canonical bytes of the tensor table."""
    data: str
    """Digest of data, partition and tiers."""
    high: bytes
    """The high-resource clients, as :func:`zowarmup.protocol.members` packs them."""
    sizes: tuple[int, ...]
    """Training samples of every client."""
    classes: int | None


class Piece(_Envelope, frozen=True, kw_only=True):
    """Part of a snapshot."""

    run: bytes
    round: int
    link: bytes
    state: bytes
    """Digest of the state."""
    offset: int
    total: int
    content: bytes


class Work(_Envelope, frozen=True, kw_only=True):
    """Catch up with the state before a round, and do this in it."""

    run: bytes
    snapshot: Piece | None = None
    """Where one fits in here, and is what brings the node there."""
    steps: tuple[Step, ...] = ()
    """The rounds up to the one that the state is that of."""
    round: int
    """Of that state: one less than the request's."""
    link: bytes
    request: bytes
    """A request, encoded."""


class Idle(_Envelope, frozen=True, kw_only=True):
    """Say that you have nothing to do."""

    run: bytes


class Over(_Envelope, frozen=True, kw_only=True):
    """The run has ended."""

    run: bytes


class Turned(_Envelope, frozen=True, kw_only=True):
    """This node can take no part."""

    error: str
    hint: str | None = None


class _Reply(_Envelope, frozen=True, kw_only=True):
    wire: tuple[int, int] = (0, 0)
    """Bytes that the node has sent and received at its socket since it started; 0 where nobody counts."""
    counter: bytes = b""
    """A name that is another one whenever counting begins at 0."""


class Card(_Reply, frozen=True, kw_only=True):
    """Who a node is."""

    version: int = VERSION
    client: Annotated[int, Meta(ge=0)] | None = None
    """The client that it wants to be; any of its tier where left out."""
    token: bytes = b""
    tier: Literal["high", "low"]
    why: str = ""
    """How the tier was found."""
    samples: int = 0
    """Training samples, where the data is its own; 0 where the recipe deals them out."""
    counts: tuple[int, ...] = ()
    """Of each class, likewise."""
    position: Position = Position()


class Ready(_Reply, frozen=True, kw_only=True):
    """Ready to work, and not at work."""

    position: Position


class Got(_Reply, frozen=True, kw_only=True):
    """How much of a snapshot a node has by now."""

    round: int
    offset: int


class Done(_Reply, frozen=True, kw_only=True):
    """A report."""

    report: bytes
    position: Position
    seconds: float
    peak_memory_bytes: int


class Behind(_Reply, frozen=True, kw_only=True):
    """The node holds another state than the server thinks."""

    position: Position
    enrolled: bool = True
    """Whether it knows which client it is."""


class Failed(_Reply, frozen=True, kw_only=True):
    """What was asked cannot be done."""

    fault: Fault
    error: str
    hint: str | None = None


class Bye(_Reply, frozen=True, kw_only=True):
    """Heard."""


Question = Enrol | Welcome | Piece | Work | Idle | Turned | Over
Answer = Card | Ready | Got | Done | Behind | Failed | Bye


def encode(envelope: Question | Answer) -> bytes:
    """The envelope as msgpack."""
    return _ENCODER.encode(envelope)


def decode_question(content: bytes) -> Question:
    """What a server asks.

    Raises:
        WireError: not an envelope of a server.

    >>> decode_question(encode(Over(run=b"x"))).run
    b'x'
    """
    return cast(Question, _decode(content, _QUESTIONS, "server"))


def decode_answer(content: bytes) -> Answer:
    """What a node answers.

    Raises:
        WireError: not an envelope of a node.
    """
    return cast(Answer, _decode(content, _ANSWERS, "node"))


_Decoder = msgspec.msgpack.Decoder[Question] | msgspec.msgpack.Decoder[Answer]


def _decode(content: bytes, decoder: _Decoder, who: str) -> object:
    try:
        return decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(
            f"a message of {len(content)} bytes is none that a {who} of protocol version {VERSION} sends: {error}",
            hint="both sides need the same version of zowarmup",
        ) from None


_ENCODER = msgspec.msgpack.Encoder()
_QUESTIONS = msgspec.msgpack.Decoder(Question)
_ANSWERS = msgspec.msgpack.Decoder(Answer)
