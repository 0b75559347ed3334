"""The chain: what a run's identity covers, links as the specification says, and its known answers, stated twice."""

import copy
import hashlib
import json
import re
import struct
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from zowarmup import chain, recipes
from zowarmup.chain import genesis, identity, link, unlike
from zowarmup.directions import select
from zowarmup.ledger import Clock, Head, Ledger, Metrics
from zowarmup.phases.apply import apply
from zowarmup.protocol import Patch, Replacement, Update, decode_entry, encode, members
from zowarmup.state import State, moments_digest, tree
from zowarmup.table import Table

SPEC = Path(__file__).parents[1] / "docs" / "spec"
ASIDE = {
    "name",
    "method",
    "data.source",
    "data.path",
    "data.name",
    "model.weights",
    "run.snapshot-every",
    "run.keep-snapshots",
    "run.replay-budget",
    "run.sync",
    "phase.1.rounds",
}


def resolved(**overrides):
    """The digits' recipe as a ledger keeps it."""
    text = recipes.to_toml(recipes.load("digits", overrides=overrides))
    return tomllib.loads(text) | {"versions": {"torch": "2"}}


def leaves(value, path=()):
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path


def changed(table, path):
    """The table with another value in one place."""
    table = copy.deepcopy(table)
    node = table
    for part in path[:-1]:
        node = node[part]
    value = node[path[-1]]
    node[path[-1]] = value + "x" if isinstance(value, str) else value + 1
    return table


def test_every_key_of_a_recipe_counts_but_those_that_change_no_bit():
    table = resolved(**{"phase.1.schedule": "constant"}) | {"method": "m"}
    table["data"] |= {"path": "here", "name": "digits"}
    table["model"]["weights"] = "file"
    without = {".".join(map(str, path)) for path in leaves(table) if identity(changed(table, path)) == identity(table)}
    assert without - {"versions.torch"} == ASIDE


def test_a_key_that_comes_or_goes_counts():
    table = resolved()
    del table["run"]["catch-up"]
    assert identity(table) != identity(resolved())
    assert identity(resolved() | {"new": 1}) != identity(resolved())


def test_the_identity_is_canonical_json():
    table = {"seed": 0, "phase": [{"rounds": 1, "lr": 1e-4, "b": 0.1, "a": "é"}], "data": {"y": 1, "x": [True, 2.0]}}
    assert identity(table) == b'{"data":{"x":[true,2.0],"y":1},"phase":[{"a":"\\u00e9","b":0.1,"lr":0.0001}],"seed":0}'
    backwards = {key: table[key] for key in reversed(table)}
    assert identity(backwards) == identity(table)
    again = json.dumps(json.loads(identity(resolved())), sort_keys=True, separators=(",", ":"))
    assert again.encode() == identity(resolved())


def test_a_number_is_the_same_however_it_was_written():
    once = resolved(**{"phase.0.lr": 1, "phase.1.eps": 1e-4})
    assert identity(resolved(**{"phase.0.lr": 1.0, "phase.1.eps": 0.0001})) == identity(once)


def test_a_cosine_within_a_phase_is_known_by_its_horizon():
    def mixed(rounds, **high):
        phase = {"kind": "mixed", "rounds": rounds, "high": {"schedule": "cosine", **high}, "low": {"schedule": "step"}}
        return json.loads(identity({"phase": [phase]}))["phase"][0]

    assert mixed(7) == mixed(5, **{"schedule-rounds": 7}) != mixed(5)
    assert mixed(7)["high"] == {"schedule": "cosine", "schedule-rounds": 7} and mixed(7)["low"] == {"schedule": "step"}


def test_the_identity_leaves_the_recipe_as_it_is():
    table = resolved()
    before = copy.deepcopy(table)
    identity(table)
    assert table == before


def test_a_cosine_is_known_by_its_horizon():
    horizon = json.loads(identity(resolved(**{"phase.1.rounds": 7})))["phase"][1]["schedule-rounds"]
    assert horizon == 7
    fixed = {"phase.1.rounds": 7, "phase.1.schedule-rounds": 20}
    assert identity(resolved(**fixed)) == identity(resolved(**fixed | {"phase.1.rounds": 20}))
    assert identity(resolved(**fixed)) != identity(resolved(**{"phase.1.rounds": 7}))
    assert identity(resolved(**{"phase.1.rounds": 20})) == identity(resolved(**fixed))


@pytest.mark.parametrize("schedule", [{"phase.1.schedule": "constant"}, {"phase.1.schedule": "step"}], ids=str)
def test_other_schedules_have_no_horizon_so_more_rounds_are_the_same_run(schedule):
    schedule = schedule | ({"phase.1.step-every": 2} if "step" in schedule.values() else {})
    one = identity(resolved(**schedule, **{"phase.1.rounds": 7}))
    assert identity(resolved(**schedule, **{"phase.1.rounds": 70})) == one
    assert identity(resolved(**schedule, **{"phase.1.rounds": 7, "phase.1.schedule-rounds": 9})) == one
    assert b"schedule-rounds" not in one
    assert identity(resolved(**schedule, **{"phase.0.rounds": 51})) != one


def test_genesis_follows_from_each_of_its_parts():
    known = genesis(b"identity", b"table", bytes(32))
    others = [
        genesis(b"identitz", b"table", bytes(32)),
        genesis(b"identity", b"tablf", bytes(32)),
        genesis(b"identity", b"table", bytes(31) + b"\1"),
        genesis(b"identityt", b"able", bytes(32)),
    ]
    assert len({known, *others}) == 5
    assert len(known) == 32


def test_a_link_follows_from_each_of_its_parts():
    good = [bytes(32), 7, 1, b"entry", b"s" * 32, b"metrics"]
    other = [b"\1" * 32, 8, -1, b"entrz", b"t" * 32, b"metricz"]
    links = {link(*good)}
    for place, value in enumerate(other):
        links.add(link(*good[:place], value, *good[place + 1 :]))
    links.add(link(*good[:3], b"entrys", b"s" * 31 + b"m", b"etrics"))  # the same bytes, cut elsewhere
    assert len(links) == 8


def test_unlike_names_what_differs():
    a = {"x": 1, "only": 2, "list": [1, {"y": 2}], "long": [1]}
    b = {"x": 1, "list": [1, {"y": 3}], "long": [1, 2]}
    assert dict(unlike(a, b)) == {"only": (2, None), "list.1.y": (2, 3), "long": ([1], [1, 2])}


# The known answers of docs/spec/ledger-vectors.json: first from this package, then from the specification's words.


def states():
    """The states of the example's rounds."""
    buffers = {"mean": torch.tensor([0.5, -0.25]), "count": torch.tensor(3)}
    zero = State(torch.zeros(8), buffers)
    entry = Update(round=1, phase=0, **UPDATE, coefficients=np.array(COEFFICIENTS, np.int32))
    one = apply(zero, entry, table=TABLE, directions=select("cpu"))
    weights = torch.tensor([1.0, -1.0, 0.5, 2.0, 0.0, -0.0, 1e-40, 3.5])
    two = State(weights, buffers, {"momentum": torch.tensor([0.1, 0.2], dtype=torch.float64)})
    three = apply(two.begun(), FROZEN, table=TABLE, directions=select("cpu"))
    four = apply(three.begun(), PATCH, table=TABLE, directions=select("cpu"))
    return [zero, one, two, three, four]


TABLE = Table(("weight", "bias"), ((2, 3), (2,)))
RECIPE = """name = "example"
seed = 5
[data]
source = "digits"
[[phase]]
kind = "zeroth-order"
rounds = 1
lr = 0.1
[[phase]]
kind = "first-order"
rounds = 1
lr = 1e-4
[[phase]]
kind = "zeroth-order"
rounds = 1
lr = 0.1
freeze = ["bias"]
[[phase]]
kind = "head"
rounds = 2
"""
COEFFICIENTS = [3, -5]
UPDATE = {
    "members": members([0, 3, 9]),
    "refused": {2: "non-finite slopes"},
    "seed": 0x0123456789ABCDEF,
    "exponent": 2,
    "state": {"v": 0.1},
}
FROZEN = Update(
    round=3,
    phase=2,
    members=members([4]),
    seed=1,
    coefficients=np.array([7], np.int32),
    exponent=3,
    frozen=members([1]),
)
PATCH = Patch(
    round=4,
    phase=3,
    members=members([0]),
    values={"bias": np.array([0.5, -2.0], np.float32)},
    buffers={"mean": np.array([1.0, 0.25], np.float32), "count": np.array(5)},
)
METRICS = [
    Metrics(evaluation={"accuracy": 0.125, "class_accuracy": [0.5, None], "loss": None}),
    Metrics(uplink_bytes=(12, 24), downlink_bytes=(300, 70000), forward_samples=(2**32, 0), turns=(1, 2)),
    Metrics(uplink_bytes=(13, 24), replayed_directions=(0, 127), evaluation={"accuracy": 1.0}),
    Metrics(uplink_bytes=(13, 28)),
    Metrics(uplink_bytes=(53, 28)),
]


def made():
    """The known answers, by this package."""
    every = states()
    moments = moments_digest(every[2].moments())
    head = Head(recipe=RECIPE, identity=identity(tomllib.loads(RECIPE)), table=TABLE, data="ab" * 32)
    entries = [
        None,
        Update(round=1, phase=0, **UPDATE, coefficients=np.array(COEFFICIENTS, np.int32)),
        Replacement(round=2, phase=1, members=members([1]), snapshot=every[2].digest(), moments=moments),
        FROZEN,
        PATCH,
    ]
    with Ledger.memory(head) as ledger:
        rows = [
            ledger.append(
                phase, encode(entry) if entry else b"", metrics, state.digest(), Clock(seconds=0.0, peak_memory_bytes=0)
            )
            for phase, entry, metrics, state in zip(range(-1, 4), entries, METRICS, every, strict=True)
        ]
        ledger.check()
    return {
        "recipe": RECIPE,
        "identity": head.identity.decode(),
        "table": {
            "names": list(TABLE.names),
            "shapes": [list(shape) for shape in TABLE.shapes],
            "bytes": TABLE.canonical().hex(),
        },
        "data": head.data,
        "genesis": head.genesis().hex(),
        "trees": [
            {"bytes": "i mod 251, i = 0, 1, ...", "size": size, "tree": tree(pattern(size)).hex()}
            for size in (0, 1, 2**20, 2**20 + 1, 3 * 2**20)
        ],
        "states": [
            {
                "weights": state.weights.numpy().tobytes().hex(),
                "buffers": {name: tensor(value) for name, value in sorted(state.buffers.items())},
                "moments": {name: tensor(value) for name, value in state.moments().items()},
                "weights_digest": state.weights_digest(),
                "state_digest": state.digest(),
                "moments_digest": moments_digest(state.moments()),
            }
            for state in every
        ],
        "rounds": [
            {
                "round": row.round,
                "phase": row.phase,
                "fields": fields(entry),
                "entry": row.entry.hex(),
                "measured": msgspec.to_builtins(metrics),
                "metrics": row.metrics.hex(),
                "state": row.state.hex(),
                "chain": row.chain.hex(),
            }
            for row, entry, metrics in zip(rows, entries, METRICS, strict=True)
        ],
    }  # fmt: skip


def pattern(size):
    return torch.from_numpy((np.arange(size) % 251).astype(np.uint8))


def tensor(value):
    kind = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}[value.dtype]
    return {"dtype": kind, "shape": list(value.shape), "bytes": value.numpy().tobytes().hex()}


def fields(entry):
    if entry is None:
        return None
    common = {"participants": list(entry.participants), "refused": {str(k): v for k, v in entry.refused.items()}}
    if isinstance(entry, Replacement):
        return {"kind": "replacement"} | common | {"snapshot": entry.snapshot, "moments": entry.moments}
    if isinstance(entry, Patch):
        values, buffers = ({name: array(each) for name, each in part.items()} for part in (entry.values, entry.buffers))
        return {"kind": "patch"} | common | {"values": values, "buffers": buffers}
    return {"kind": "update"} | common | {
        "seed": f"{entry.seed:016x}",
        "coefficients": entry.coefficients.tolist(),
        "exponent": entry.exponent,
        "state": entry.state,
        "frozen": list(entry.stays),
    }  # fmt: skip


def array(value):
    return {"dtype": value.dtype.str, "shape": list(value.shape), "bytes": value.tobytes().hex()}


@pytest.fixture(scope="module")
def vectors():
    return json.loads((SPEC / "ledger-vectors.json").read_text(encoding="utf-8"))


def test_this_package_gives_the_known_answers(vectors):
    assert {key: value for key, value in vectors.items() if key != "contract"} == json.loads(json.dumps(made()))


def test_the_entries_of_the_known_answers_decode(vectors):
    for round in vectors["rounds"][1:]:
        assert fields(decode_entry(bytes.fromhex(round["entry"]))) == round["fields"]


def packed(value):
    """msgpack in its most compact form, by hand; as much of it as a ledger needs."""
    if value is None:
        return b"\xc0"
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, int):
        if -32 <= value < 128:
            return struct.pack(">b", value)
        forms = ((0xCC, ">B"), (0xCD, ">H"), (0xCE, ">I"), (0xCF, ">Q"))
        tag, form = next(each for each in forms if 0 <= value < 256 ** struct.calcsize(each[1]))
        return bytes([tag]) + struct.pack(form, value)
    if isinstance(value, str):
        text = value.encode()
        return (bytes([0xA0 | len(text)]) if len(text) < 32 else bytes([0xD9, len(text)])) + text
    if isinstance(value, bytes):
        return bytes([0xC4, len(value)]) + value
    if isinstance(value, list):
        return bytes([0x90 | len(value)]) + b"".join(map(packed, value))
    assert isinstance(value, dict)
    return bytes([0x80 | len(value)]) + b"".join(packed(key) + packed(inner) for key, inner in value.items())


def blake2b(content):
    return hashlib.blake2b(content, digest_size=32).digest()


def lp(content):
    return struct.pack("<Q", len(content)) + content


def hashed_tree(content):
    return blake2b(b"".join(blake2b(content[at : at + 2**20]) for at in range(0, len(content), 2**20)))


def frame(name, value):
    text, kind = name.encode(), value["dtype"].encode()
    head = struct.pack("<I", len(text)) + text + struct.pack("<I", len(kind)) + kind
    head += struct.pack("<I", len(value["shape"])) + b"".join(struct.pack("<Q", size) for size in value["shape"])
    return head + hashed_tree(bytes.fromhex(value["bytes"]))


def bits(numbers):
    found = bytearray(max(numbers, default=-1) // 8 + 1)
    for number in numbers:
        found[number >> 3] |= 1 << (number & 7)
    return bytes(found)


def entry_bytes(round):
    given = round["fields"]
    if given is None:
        return b""
    refused = {int(client): why for client, why in given["refused"].items()}
    common = [given["kind"], round["round"], round["phase"], bits(given["participants"]), refused]
    if given["kind"] == "replacement":
        return packed([*common, given["snapshot"], given["moments"]])
    if given["kind"] == "patch":
        parts = (
            {name: [each["dtype"], each["shape"], bytes.fromhex(each["bytes"])] for name, each in given[part].items()}
            for part in ("values", "buffers")
        )
        return packed([*common, *parts])
    integers = given["coefficients"]
    array = ["<i4", [len(integers)], struct.pack(f"<{len(integers)}i", *integers)]
    return packed([*common, int(given["seed"], 16), array, given["exponent"], given["state"], bits(given["frozen"])])


def test_the_specifications_words_give_the_known_answers(vectors):
    names, shapes = vectors["table"]["names"], vectors["table"]["shapes"]
    table = b"zowarmup/table/1" + struct.pack("<I", len(names))
    for name, shape in zip(names, shapes, strict=True):
        table += struct.pack("<I", len(name)) + name.encode() + struct.pack("<I", len(shape))
        table += b"".join(struct.pack("<Q", size) for size in shape)
    assert table.hex() == vectors["table"]["bytes"]

    recipe = tomllib.loads(vectors["recipe"])
    *phases, last = recipe["phase"]
    phases.append({key: value for key, value in last.items() if key != "rounds"})
    kept = {"seed": recipe["seed"], "data": {}, "phase": phases}
    assert json.dumps(kept, sort_keys=True, separators=(",", ":")) == vectors["identity"]

    previous = blake2b(
        b"zowarmup/ledger/1" + lp(vectors["identity"].encode()) + blake2b(table) + bytes.fromhex(vectors["data"])
    )
    assert previous.hex() == vectors["genesis"]
    for case in vectors["trees"]:
        assert hashed_tree(bytes(i % 251 for i in range(case["size"]))).hex() == case["tree"]
    for state in vectors["states"]:
        weights = hashed_tree(bytes.fromhex(state["weights"]))
        assert weights.hex() == state["weights_digest"]
        frames = b"".join(frame(name, state["buffers"][name]) for name in sorted(state["buffers"]))
        assert blake2b(weights + frames).hex() == state["state_digest"]
        moments = b"".join(frame(name, state["moments"][name]) for name in sorted(state["moments"]))
        assert (blake2b(moments).hex() if moments else "") == state["moments_digest"]
    for round, state in zip(vectors["rounds"], vectors["states"], strict=True):
        entry = entry_bytes(round)
        assert entry.hex() == round["entry"]
        metrics = packed(round["measured"])
        assert metrics.hex() == round["metrics"]
        assert round["state"] == state["state_digest"]
        place = struct.pack("<Q", round["round"]) + struct.pack("<i", round["phase"])
        told = lp(entry) + bytes.fromhex(round["state"]) + lp(metrics)
        previous = blake2b(b"zowarmup/round/1" + previous + place + told)
        assert previous.hex() == round["chain"]


def test_the_specification_prints_the_known_answers(vectors):
    text = (SPEC / "ledger.md").read_text(encoding="utf-8")
    first_column = "".join(re.findall(r"^    (\S+(?: \S+)*)", text, re.MULTILINE)).replace(" ", "")
    whole = re.sub(r"\s", "", text)
    start, update = vectors["rounds"][:2]
    assert update["entry"] in first_column
    assert update["metrics"] in first_column
    for content in (vectors["identity"], vectors["table"]["bytes"], vectors["genesis"], start["chain"]):
        assert content in whole
    for content in (update["state"], update["chain"]):
        assert content in whole


def test_the_bytes_of_a_metrics_row_survive_a_round_trip():
    for metrics in METRICS:
        content = msgspec.msgpack.encode(metrics)
        assert msgspec.msgpack.decode(content, type=Metrics) == metrics
    assert chain.link(bytes(32), 0, -1, b"", bytes(32), b"") != chain.link(bytes(32), 0, 0, b"", bytes(32), b"")
