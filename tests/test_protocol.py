"""Messages: they survive encoding, know their size, and refuse what is not one."""

import msgspec
import numpy as np
import pytest

from zowarmup.errors import RunError
from zowarmup.protocol import (
    Replacement,
    Request,
    Slopes,
    SlopesRequest,
    Update,
    Weights,
    decode,
    decode_entry,
    encode,
    members,
)

DIGEST = "ab" * 32

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
]
ENTRIES = [
    (
        Update(
            round=2,
            phase=1,
            members=members((1, 4)),
            refused={3: "non-finite slopes"},
            seed=9,
            coefficients=np.array([-(2**31), 2**31 - 1], np.int32),
            exponent=-66,
            state={"v": 0.1},
        ),
        8 + 4 + 8,
    ),
    (Replacement(round=2, phase=0, members=members((1,)), snapshot=DIGEST), 32),
]


@pytest.mark.parametrize("message, payload", MESSAGES + ENTRIES, ids=lambda value: type(value).__name__)
def test_a_message_survives_encoding_and_knows_its_payload(message, payload):
    back = (decode_entry if isinstance(message, Update | Replacement) else decode)(encode(message))
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


def test_text_that_is_not_utf8_is_refused():
    data = msgspec.msgpack.encode({"type": "Slopes"}).replace(b"Slopes", b"Slope\xff")
    with pytest.raises(RunError, match="message of 13 bytes does not decode"):
        decode(data)


@pytest.mark.parametrize("clients", [(), (0,), (7,), (8,), (0, 3, 9), tuple(range(20)), (5, 1000)], ids=str)
def test_members_are_bits_without_zero_bytes_at_the_end(clients):
    packed = members(clients)
    assert len(packed) == (max(clients) // 8 + 1 if clients else 0)
    assert [c for c in range(8 * len(packed)) if packed[c >> 3] >> (c & 7) & 1] == list(clients)
    entry = Replacement(round=1, phase=0, members=packed, snapshot=DIGEST)
    assert entry.participants == clients
    assert members(reversed(clients)) == packed


UPDATE = encode(ENTRIES[0][0])
ROUND, PHASE, MEMBERS, REFUSED, SEED, COEFFICIENTS, EXPONENT, STATE = range(1, 9)


def entry(**changes):
    """The update's bytes with other values in some places."""
    values = msgspec.msgpack.decode(UPDATE)
    for name, value in changes.items():
        values[globals()[name]] = value
    return msgspec.msgpack.encode(values)


BAD = {
    "nothing": (b"", "entry of 0 bytes does not decode: Input data was truncated"),
    "not an array": (b"\x01", "does not decode: Expected `array`, got `int`"),
    "of an unknown kind": (UPDATE.replace(b"update", b"upsate"), "does not decode: Invalid value 'upsate'"),
    "cut short": (UPDATE[:-1], "does not decode: Input data was truncated"),
    "with something behind it": (UPDATE + b"x", "trailing"),
    "with a field less": (msgspec.msgpack.encode(msgspec.msgpack.decode(UPDATE)[:-1]), "not in its canonical form"),
    "with a field more": (msgspec.msgpack.encode([*msgspec.msgpack.decode(UPDATE), 1]), "not in its canonical form"),
    "a message": (encode(MESSAGES[2][0]), "does not decode: Expected `array`, got `object`"),
    "text that is no utf-8": (entry(REFUSED={1: "why?"}).replace(b"why?", b"why\xff"), "does not decode: 'utf-8'"),
    "a long form of a number": (UPDATE.replace(b"\xa6update\x02", b"\xa6update\xcc\x02"), "not in its canonical form"),
    "an integer for a float": (entry(STATE={"v": 1}), "not in its canonical form"),
    "members with a zero byte": (entry(MEMBERS=b"\x12\0"), "not in its canonical form"),
    "refused clients out of order": (entry(REFUSED={4: "a", 3: "b"}), "not in its canonical form"),
    "a negative seed": (entry(SEED=-1), "seed -1, expected 64 bits"),
    "coefficients of another type": (
        entry(COEFFICIENTS=["<f4", [2], bytes(8)]),
        "coefficients of float32 and shape (2,), expected int32 (K,)",
    ),
    "coefficients of another shape": (
        entry(COEFFICIENTS=["<i4", [1, 2], bytes(8)]),
        "coefficients of int32 and shape (1, 2), expected int32 (K,)",
    ),
    "coefficients cut short": (entry(COEFFICIENTS=["<i4", [2], bytes(7)]), "array of 7 bytes does not have shape (2,)"),
    "an exponent too small": (entry(EXPONENT=-67), "exponent -67, expected -66 to 100"),
    "an exponent too large": (entry(EXPONENT=101), "exponent 101, expected -66 to 100"),
    "a snapshot of no digest": (
        encode(Replacement(round=1, phase=0, snapshot="ab")),
        "digest 'ab', expected 64 hexadecimal digits",
    ),
    "moments of no digest": (
        encode(Replacement(round=1, phase=0, snapshot=DIGEST, moments="AB" * 32)),
        "expected 64 hexadecimal digits",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_entry_is_refused(case):
    data, message = BAD[case]
    with pytest.raises(RunError) as caught:
        decode_entry(data)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"entry of {len(data)} bytes ")


def test_any_byte_of_an_entry_changed_gives_another_entry_or_a_refusal():
    for at in range(len(UPDATE)):
        for flip in (1, 0x80, 0xFF):
            changed = UPDATE[:at] + bytes([UPDATE[at] ^ flip]) + UPDATE[at + 1 :]
            try:
                assert encode(decode_entry(changed)) == changed
            except RunError as error:
                assert error.message.startswith("entry of")
