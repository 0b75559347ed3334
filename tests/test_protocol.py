"""Messages: they survive encoding, know their size, and refuse what is not one."""

import msgspec
import numpy as np
import pytest

from zowarmup.errors import RunError
from zowarmup.protocol import Replacement, Request, Slopes, SlopesRequest, Update, Weights, decode, encode

MESSAGES = [
    (Request(round=1, phase=0, client=3), 4),
    (SlopesRequest(round=1, phase=0, client=3, seed=2**64 - 1, rank=2), 16),
    (Slopes(round=1, phase=0, client=3, slopes=np.array([1.5, np.nan, -0.0], np.float32)), 12),
    (
        Weights(
            round=2,
            phase=0,
            client=3,
            weights=np.arange(5, dtype=np.float32),
            buffers={"mean": np.ones(2, np.float32), "count": np.array(7)},
        ),
        20 + 8 + 8,
    ),
    (
        Update(
            round=2,
            phase=1,
            participants=(1, 4),
            refused={3: "non-finite slopes"},
            seed=9,
            coefficients=np.array([-(2**31), 2**31 - 1], np.int32),
            exponent=-66,
            state={"v": 0.1},
        ),
        8 + 4 + 8,
    ),
    (Replacement(round=2, phase=0, participants=(1,), snapshot="ab"), 32),
]


@pytest.mark.parametrize("message, payload", MESSAGES, ids=lambda value: type(value).__name__)
def test_a_message_survives_encoding_and_knows_its_payload(message, payload):
    back = decode(encode(message))
    assert type(back) is type(message)
    for name in message.__struct_fields__:
        ours, theirs = getattr(message, name), getattr(back, name)
        if name == "buffers":
            assert ours.keys() == theirs.keys()
            assert all(same(ours[key], theirs[key]) for key in ours)
        else:
            assert same(ours, theirs)
    assert back.payload_bytes == payload
    assert len(encode(message)) >= payload or isinstance(message, Request | SlopesRequest | Replacement)


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "message of 0 bytes does not decode: Input data was truncated"),
        (b"\x01", "does not decode: Expected `object`, got `int`"),
        (msgspec.msgpack.encode({"type": "Nope"}), "Invalid value 'Nope'"),
        (msgspec.msgpack.encode({"type": "Slopes", "round": 1}), "missing required field"),
        (encode(MESSAGES[2][0])[:-3], "truncated"),
        (encode(MESSAGES[2][0]) + b"x", "trailing"),
        (
            msgspec.msgpack.encode(
                {"type": "Slopes", "round": 1, "phase": 0, "client": 0, "slopes": ["|O", [1], b"x" * 8]}
            ),
            "array of dtype '|O'",
        ),
        (
            msgspec.msgpack.encode(
                {"type": "Slopes", "round": 1, "phase": 0, "client": 0, "slopes": ["<f4", [3], b"x" * 8]}
            ),
            "array of 8 bytes does not have shape (3,)",
        ),
    ],
)
def test_what_is_not_a_message_is_refused(data, message):
    with pytest.raises(RunError) as caught:
        decode(data)
    assert message in str(caught.value)
