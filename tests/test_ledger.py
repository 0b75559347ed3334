"""The ledger: rounds in and out, what is refused and in which words, and a reader that knows the spec alone."""

import hashlib
import json
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy

import zowarmup
from zowarmup import chain
from zowarmup.directions import philox
from zowarmup.disk import Disk
from zowarmup.errors import DiskError, LedgerError, OutputError
from zowarmup.ledger import NAME, Clock, File, Head, Ledger, Metrics, Row
from zowarmup.protocol import Replacement, Update, encode, members
from zowarmup.table import Table

RECIPE = """name = "x"
seed = 1
[[phase]]
kind = "zeroth-order"
rounds = 5
lr = 0.1
schedule = "constant"
"""
IDENTITY = b'{"phase":[{"kind":"zeroth-order","lr":0.1,"schedule":"constant"}],"seed":1}'
TABLE = Table(("weight", "bias"), ((2, 3), (2,)))
HEAD = Head(recipe=RECIPE, identity=IDENTITY, table=TABLE, data="cd" * 32, facts={"classes": 10})
CLOCK = Clock(seconds=1.5, peak_memory_bytes=7)
FAST = Disk(sync=False)


def update(round, **more):
    given = {"members": members([0, 2]), "seed": 9, "coefficients": np.array([1, -2], np.int32), "exponent": 3}
    return Update(round=round, phase=0, **given | more)


def digest(round):
    return f"{round:02x}" * 32


def append(ledger, count=1, **more):
    for _ in range(count):
        round = ledger.last + 1
        entry = b"" if round == 0 else encode(update(round))
        row = ledger.append(-1 if round == 0 else 0, entry, Metrics(turns=(round, 0)), digest(round), CLOCK, **more)
    return row


@pytest.fixture
def folder(tmp_path):
    """The folder of a ledger with rounds 0 to 4."""
    with Ledger.create(tmp_path, HEAD, disk=FAST) as ledger:
        append(ledger, 5)
    return tmp_path


def change(folder, *statements):
    """Change a ledger behind its back."""
    connection = sqlite3.connect(folder / NAME)
    with connection:
        for statement in statements:
            connection.execute(*((statement, ()) if isinstance(statement, str) else statement))
    connection.close()


def relink(folder):
    """Make every link follow again, as somebody would who changes a ledger on purpose."""
    with Ledger.open(folder) as ledger:
        previous, rows = ledger.head.genesis(), list(ledger.rows())
    links = []
    for row in rows:
        previous = chain.link(previous, row.round, row.phase, row.entry, row.state, row.metrics)
        links.append(("UPDATE rounds SET chain = ? WHERE round = ?", (previous, row.round)))
    change(folder, *links)


def refused(folder, kind, message):
    with pytest.raises(kind) as caught, Ledger.open(folder) as ledger:
        ledger.check()
    assert message in caught.value.message
    assert str(folder) in caught.value.message or caught.value.message.startswith("round")
    return caught.value


# In and out.


def test_what_goes_in_comes_out(tmp_path):
    with Ledger.create(tmp_path, HEAD, disk=FAST) as ledger:
        assert ledger.last == -1
        assert ledger.head == HEAD
        assert list(ledger.rows()) == []
        given = [append(ledger) for _ in range(3)]
        assert list(ledger.rows()) == given
    with Ledger.open(tmp_path) as ledger:
        ledger.check()
        assert ledger.head == HEAD
        assert ledger.last == 2
        assert list(ledger.rows()) == given
        assert list(ledger.rows(1, 1)) == given[1:2]
        assert ledger.row(2) == given[2]
        assert ledger.row(0).decoded() is None
        assert ledger.row(1).decoded().participants == (0, 2)
        assert ledger.row(1).measured() == Metrics(turns=(1, 0))
        assert ledger.row(1).timed() == CLOCK
        assert ledger.integrity() == "ok"


def test_each_link_follows_from_the_one_before(tmp_path):
    with Ledger.create(tmp_path, HEAD, disk=FAST) as ledger:
        rows = [append(ledger) for _ in range(3)]
    previous = chain.genesis(IDENTITY, TABLE.canonical(), bytes.fromhex(HEAD.data))
    for row in rows:
        assert row.follows(previous)
        assert not row.follows(bytes(32))
        previous = row.chain


def test_a_ledger_in_memory_is_the_same(tmp_path):
    with Ledger.memory(HEAD) as memory, Ledger.create(tmp_path, HEAD, disk=FAST) as ledger:
        append(memory, 3)
        append(ledger, 3)
        memory.check()
        assert list(memory.rows()) == list(ledger.rows())


def test_snapshots_come_and_go_with_their_round(tmp_path):
    one, two = File(b"1" * 32, b"a" * 32, 10), File(b"2" * 32, b"b" * 32, 20)
    with Ledger.create(tmp_path, HEAD, disk=FAST) as ledger:
        append(ledger, add=[one])
        append(ledger, add=[two, one])
        assert ledger.files() == {one.digest: one, two.digest: two}
        append(ledger, drop=[one.digest])
        assert ledger.files() == {two.digest: two}


def test_notes_and_sessions(tmp_path):
    with Ledger.create(tmp_path, HEAD, disk=FAST) as ledger:
        ledger.begin({"device": "cpu"})
        append(ledger, 2)
        ledger.note(ended={"status": "finished"}, writer={"pid": 1})
        assert ledger.value("ended") == {"status": "finished"}
        longer = RECIPE.replace("rounds = 5", "rounds = 9")
        ledger.amend(longer)
        ledger.begin({"device": "cuda"})
        assert ledger.value("ended") is None
        ledger.note(writer=None)
        assert ledger.value("writer") is None
        assert ledger.head.recipe == longer
    with Ledger.open(tmp_path) as ledger:
        ledger.check()
        assert ledger.head.recipe == longer
        assert ledger.sessions() == [{"first_round": 0, "device": "cpu"}, {"first_round": 2, "device": "cuda"}]


def test_unknown_keys_are_ignored(folder):
    change(folder, "INSERT INTO run VALUES ('later', x'00')")
    change(folder, ("UPDATE run SET value = ? WHERE key = 'facts'", (b'{"classes": 3, "later": 1}',)))
    with Ledger.open(folder) as ledger:
        ledger.check()
        assert ledger.head.facts == {"classes": 3, "later": 1}


def test_a_round_that_is_not_there_is_named(folder):
    with Ledger.open(folder) as ledger, pytest.raises(LedgerError, match="has no round 5, its last is 4") as caught:
        ledger.row(5)
    assert caught.value.round == 5


# On the disk.


class Fails:
    """Lets the n-th operation fail."""

    def __init__(self, n):
        self.left = n

    def __call__(self, name, when, path):
        self.left -= 1
        if self.left == 0:
            raise OSError(28, "No space left on device")


def test_a_ledger_is_there_with_its_head_or_not_at_all(tmp_path):
    for n in range(1, 100):
        folder = tmp_path / str(n)
        folder.mkdir()
        fails = Fails(n)
        try:
            Ledger.create(folder, HEAD, disk=Disk(sync=True, watch=fails)).close()
        except DiskError as error:
            assert "No space left" in error.message
            if (folder / NAME).exists():
                with Ledger.open(folder) as ledger:
                    assert ledger.head == HEAD
            continue
        break
    assert fails.left > 0
    assert n > 6


@pytest.mark.parametrize("n", [1, 2], ids=["before the commit", "after the commit"])
def test_a_round_that_cannot_be_committed_is_not_there_and_the_next_try_may_succeed(folder, n):
    fails = Fails(0)
    with Ledger.open(folder, disk=Disk(sync=False, watch=fails)) as ledger:
        fails.left = n
        with pytest.raises(DiskError, match="No space left"):
            append(ledger)
    with Ledger.open(folder, disk=FAST) as ledger:
        assert ledger.last == (4 if n == 1 else 5)
        append(ledger)
        ledger.check()


READ = """
import sys
from pathlib import Path
from zowarmup.ledger import Ledger
with Ledger.open(Path(sys.argv[1])) as ledger:
    ledger.check()
    print(ledger.last)
"""


def test_another_process_sees_what_was_committed_while_the_writer_goes_on(folder):
    with Ledger.open(folder, disk=FAST) as ledger:
        append(ledger)
        assert journal(folder) == "wal"
        done = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, check=True)
        assert done.stdout == "5\n"
        append(ledger)
        with Ledger.open(folder) as reader:
            assert reader.last == 6
            append(ledger)
            assert reader.last == 6
    assert [path.name for path in folder.iterdir()] == [NAME]
    assert journal(folder) == "delete"


def journal(folder):
    """What the file itself says: SQLite's file format, offset 18, https://sqlite.org/fileformat2.html."""
    return {b"\1\1": "delete", b"\2\2": "wal"}[(folder / NAME).read_bytes()[18:20]]


def test_on_a_network_file_system_there_is_no_wal(folder, monkeypatch):
    monkeypatch.setattr("zowarmup.ledger.network_file_system", lambda path: "nfs")
    with Ledger.open(folder, disk=FAST) as ledger:
        append(ledger)
        assert journal(folder) == "delete"


@pytest.mark.parametrize("sync, value", [(True, 2), (False, 0)])
def test_a_writer_syncs_as_it_is_told(folder, sync, value):
    with Ledger.open(folder, disk=Disk(sync=sync)) as ledger:
        assert ledger._connection.execute("PRAGMA synchronous").fetchone() == (value,)


def test_a_reader_changes_nothing(folder):
    before = (folder / NAME).read_bytes()
    with Ledger.open(folder) as ledger:
        ledger.check()
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            ledger._connection.execute("DELETE FROM rounds")
    assert (folder / NAME).read_bytes() == before
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_the_form_is_the_specifications(folder):
    content = (folder / NAME).read_bytes()
    assert content[:16] == b"SQLite format 3\0"
    assert struct.unpack(">I", content[68:72])[0] == 0x7A6F7755
    assert struct.unpack(">I", content[60:64])[0] == 1
    spec = (Path(__file__).parents[1] / "docs" / "spec" / "ledger.md").read_text()
    connection = sqlite3.connect(folder / NAME)
    for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"):
        assert "".join(sql.split()) in "".join(spec.split())
    connection.close()


def test_a_long_run_stays_within_the_specifications_size(tmp_path):
    """12 bytes a direction and 300 a round, and 12 kB for the run as a whole."""
    coefficients = np.random.default_rng(0).integers(-(2**31), 2**31, 30).astype(np.int32)
    with Ledger.create(tmp_path, HEAD, disk=FAST) as ledger:
        append(ledger)
        for round in range(1, 301):
            entry = encode(update(round, coefficients=coefficients, members=members(range(20)), state={"v": 0.1}))
            metrics = Metrics(**dict.fromkeys(Metrics.__struct_fields__[:-1], (10**9, 10**9)))
            ledger.append(0, entry, metrics, digest(1), CLOCK)
    assert (tmp_path / NAME).stat().st_size <= 300 * (12 * 30 + 300) + 12_000


# What is refused, and in which words.


def test_what_is_no_run_directory(tmp_path):
    refused(tmp_path / "nowhere", OutputError, "not a run directory: no such folder")
    refused(tmp_path, OutputError, "not a run directory: it has no ledger.db")
    (tmp_path / NAME).mkdir()
    refused(tmp_path, OutputError, "not a run directory: it has no ledger.db")


def test_what_is_no_database(tmp_path):
    (tmp_path / NAME).write_text("name = 'x'\n" * 100)
    refused(tmp_path, LedgerError, "is damaged, or no ledger: file is not a database")
    with pytest.raises(LedgerError, match="file is not a database"):
        Ledger.open(tmp_path, disk=FAST)
    (tmp_path / NAME).write_bytes(b"")
    refused(tmp_path, OutputError, "is an SQLite database, but not a ledger")


def test_another_applications_database(folder):
    change(folder, "PRAGMA application_id = 1")
    refused(folder, OutputError, "is an SQLite database, but not a ledger")


def test_a_newer_version(folder):
    change(folder, "PRAGMA user_version = 2")
    error = refused(folder, OutputError, "is a ledger of version 2, this zowarmup reads version 1")
    assert error.hint == "read it with a newer zowarmup"
    assert error.exit_code == 2


@pytest.mark.parametrize("table", ["run", "rounds", "snapshots", "sessions"])
def test_a_table_that_is_missing(folder, table):
    change(folder, f"DROP TABLE {table}")
    with pytest.raises(LedgerError, match=f"no such table: {table}"), Ledger.open(folder) as ledger:
        ledger.files()
        ledger.sessions()


@pytest.mark.parametrize("key", ["recipe", "identity", "table", "data", "facts"])
def test_a_key_that_is_missing(folder, key):
    change(folder, f"DELETE FROM run WHERE key = '{key}'")
    refused(folder, LedgerError, f"is damaged: run has no '{key}'")


HEADS = {
    "a recipe that is no text": ("recipe", b"\xff", "'utf-8' codec can't decode"),
    "a table that is none": ("table", b"zowarmup/table/2", "not a tensor table"),
    "a table cut short": ("table", TABLE.canonical()[:-1], "not a tensor table"),
    "a table with more behind it": ("table", TABLE.canonical() + b"x", "not a tensor table: something else"),
    "a table with a name twice": (
        "table",
        Table(("weight", "weight"), TABLE.shapes).canonical(),
        "not a tensor table: two parameters of one name",
    ),
    "an identity that is no JSON": ("identity", IDENTITY[:-1], "identity is damaged: Expecting ',' delimiter"),
    "an identity that is no text": ("identity", b"{\xff}", "identity is damaged: 'utf-8' codec can't decode"),
    "an identity that is no table": ("identity", b"[1]", "identity is damaged: no table"),
    "facts that are no table": ("facts", b"3", "facts is damaged: no table"),
    "data that are no bytes": ("data", "text", "has no attribute 'hex'"),
    "facts that are no JSON": ("facts", b"{", "is damaged: Expecting property name"),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_key_that_does_not_decode(folder, case):
    key, value, message = HEADS[case]
    change(folder, ("UPDATE run SET value = ? WHERE key = ?", (value, key)))
    refused(folder, LedgerError, message)


def test_a_fact_that_is_missing_is_told_where_it_is_asked_for(folder):
    change(folder, ("UPDATE run SET value = ? WHERE key = 'facts'", (b'{"federation": {"sizes": [1]}}',)))
    with Ledger.open(folder) as ledger:
        ledger.check()
        assert ledger.head.facts["federation"]["sizes"] == [1]
        with pytest.raises(LedgerError, match=r"ledger\.db: is damaged: facts has no 'classes'"):
            ledger.head.facts["classes"]
        with pytest.raises(LedgerError, match="facts has no 'tiers'"):
            ledger.head.facts["federation"]["tiers"]


RECIPES = {
    "another value": RECIPE.replace("0.1", "0.2"),
    "no TOML": "name = ",
    "no phase": "name = 'x'",
    "a phase that is no table": "phase = [1]",
    "data that are no table": RECIPE.replace("seed = 1", "seed = 1\ndata = 3"),
    "no phases": "phase = []",
}


@pytest.mark.parametrize("case", RECIPES)
def test_a_recipe_that_does_not_give_the_identity(folder, case):
    change(folder, ("UPDATE run SET value = ? WHERE key = 'recipe'", (RECIPES[case].encode(),)))
    refused(folder, LedgerError, "the recipe is another than the one that the chain begins with")


@pytest.mark.parametrize("key, value", [("identity", IDENTITY.replace(b"1", b"2")), ("data", b"\xcd" * 31 + b"\xcc")])
def test_a_hashed_key_that_was_changed(folder, key, value):
    change(folder, ("UPDATE run SET value = ? WHERE key = ?", (value, key)))
    error = refused(folder, LedgerError, "round 0: the link does not follow")
    assert error.round == 0


def test_a_table_that_was_changed(folder):
    other = Table(("weight", "bios"), TABLE.shapes).canonical()
    change(folder, ("UPDATE run SET value = ? WHERE key = 'table'", (other,)))
    assert refused(folder, LedgerError, "round 0: the link does not follow").round == 0


FORM = "round 2: a column is of another type or length"
LINK = "round 2: the link does not follow"
VALUES = {
    "an entry that is text": ("entry = 'text'", FORM),
    "a phase that is text": ("phase = 'text'", FORM),
    "a phase that is large": ("phase = 2147483648", FORM),
    "a short digest": ("state = x'00'", FORM),
    "a short link": ("chain = x'00'", FORM),
    "a link": ("chain = zeroblob(32)", LINK),
    "a state": ("state = zeroblob(32)", LINK),
    "a phase": ("phase = 1", LINK),
    "metrics": ("metrics = x'98'", LINK),
    "no entry": ("entry = x''", LINK),
}


@pytest.mark.parametrize("case", VALUES)
def test_a_value_that_was_changed(folder, case):
    assignment, message = VALUES[case]
    change(folder, f"UPDATE rounds SET {assignment} WHERE round = 2")
    assert refused(folder, LedgerError, message).round == 2


@pytest.mark.parametrize("round", [0, 2])
def test_a_round_that_was_taken_out(folder, round):
    change(folder, f"DELETE FROM rounds WHERE round = {round}")
    assert refused(folder, LedgerError, f"round {round} is missing").round == round


@pytest.mark.parametrize("round, wrong", [(-1, 0), (5, 5), (9, 5)])
def test_a_round_that_was_put_in(folder, round, wrong):
    change(
        folder,
        f"INSERT INTO rounds SELECT {round}, phase, entry, metrics, state, chain, clock FROM rounds WHERE round = 4",
    )
    error = refused(folder, LedgerError, f"round {wrong}")
    assert error.round == wrong


def test_entries_of_two_rounds_that_were_exchanged(folder):
    change(
        folder,
        "UPDATE rounds SET entry = (SELECT entry FROM rounds AS r WHERE r.round = 5 - rounds.round) "
        "WHERE round IN (2, 3)",
    )
    assert refused(folder, LedgerError, LINK).round == 2
    relink(folder)
    assert refused(folder, LedgerError, "round 2: its entry is that of round 3 of phase 0").round == 2


def test_two_rows_that_were_exchanged(folder):
    moves = ((2, 100), (3, 2), (100, 3))
    change(folder, *(f"UPDATE rounds SET round = {there} WHERE round = {here}" for here, there in moves))
    assert refused(folder, LedgerError, LINK).round == 2


FORGED = {
    "another round's entry": (encode(update(3)), "its entry is that of round 3 of phase 0, expected phase 0"),
    "another phase's entry": (
        encode(msgspec.structs.replace(update(2), phase=1)),
        "its entry is that of round 2 of phase 1, expected phase 0",
    ),
    "an entry that does not decode": (b"\xc0", "entry of 1 bytes does not decode: Expected `array`"),
    "an entry that is not canonical": (
        encode(update(2)).replace(b"update\x02", b"update\xcc\x02"),
        "is not in its canonical form",
    ),
    "an entry of a kind yet to come": (encode(update(2)).replace(b"update", b"patrol"), "Invalid value 'patrol'"),
}


@pytest.mark.parametrize("case", FORGED)
def test_an_entry_that_was_exchanged_with_its_link(folder, case):
    entry, message = FORGED[case]
    change(folder, ("UPDATE rounds SET entry = ? WHERE round = 2", (entry,)))
    relink(folder)
    error = refused(folder, LedgerError, message)
    assert error.round == 2
    assert error.message.startswith("round 2: ")


def test_metrics_that_do_not_decode(folder):
    for content, why in (
        (b"\x98", "truncated"),
        (b"\x91\xa1\xff", "Expected `array`, got `str`"),
        (b"\xc0", "Expected `array`"),
    ):
        change(folder, ("UPDATE rounds SET metrics = ? WHERE round = 2", (content,)))
        relink(folder)
        error = refused(folder, LedgerError, "round 2: its metrics do not decode: ")
        assert why in error.message


def test_metrics_of_a_later_version_may_have_more_fields(folder):
    with Ledger.open(folder) as ledger:
        known = ledger.row(2).metrics
    change(folder, ("UPDATE rounds SET metrics = ? WHERE round = 2", (b"\x99" + known[1:] + b"\x07",)))
    relink(folder)
    with Ledger.open(folder) as ledger:
        ledger.check()
        assert ledger.row(2).measured() == Metrics(turns=(2, 0))


def test_a_clock_that_does_not_decode():
    row = Row(3, 0, b"", b"", bytes(32), bytes(32), b"\xc0")
    with pytest.raises(LedgerError, match="round 3: its clock do not decode") as caught:
        row.timed()
    assert caught.value.round == 3


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO snapshots VALUES (x'00', zeroblob(32), 1)",
        "INSERT INTO snapshots VALUES (zeroblob(32), 'text', 1)",
        "INSERT INTO snapshots VALUES ('text', zeroblob(32), 1)",
    ],
)
def test_a_row_of_snapshots_that_is_malformed(folder, statement):
    change(folder, statement)
    with Ledger.open(folder) as ledger, pytest.raises(LedgerError, match="snapshots: a column is of another type"):
        ledger.files()


def test_notes_that_are_no_json(folder):
    change(folder, "INSERT INTO run VALUES ('ended', x'7b')", "INSERT INTO run VALUES ('writer', x'31')")
    change(folder, "INSERT INTO sessions VALUES (0, x'ff')")
    with Ledger.open(folder) as ledger:
        with pytest.raises(LedgerError, match="ended is damaged: Expecting property name"):
            ledger.value("ended")
        with pytest.raises(LedgerError, match="writer is damaged"):
            ledger.value("writer")
        with pytest.raises(LedgerError, match="sessions is damaged"):
            ledger.sessions()


# A reader that knows docs/spec/ledger.md and no code of this package but the directions' reference.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the digits, both phases."""
    out = tmp_path_factory.mktemp("ledger") / "run"
    short = {"phase.0.rounds": 3, "phase.1.rounds": 4, "run.evaluate-every": 2}
    zowarmup.run("digits", overrides=short, out=out)
    return out


def blake2b(content):
    return hashlib.blake2b(content, digest_size=32).digest()


def unpacked(data, at=0):
    """A msgpack value at a place, and where it ends."""
    tag = data[at]
    if tag < 0x80:
        return tag, at + 1
    if tag >= 0xE0:
        return tag - 256, at + 1
    if tag < 0x90:
        return pairs(data, at + 1, tag & 15)
    if tag < 0xA0:
        return items(data, at + 1, tag & 15)
    if tag < 0xC0:
        return data[at + 1 : (end := at + 1 + (tag & 31))].decode(), end
    if tag == 0xC0:
        return None, at + 1
    numbers = {0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i"}
    if tag in numbers:
        size = struct.calcsize(numbers[tag])
        return struct.unpack_from(numbers[tag], data, at + 1)[0], at + 1 + size
    lengths = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDC: 2, 0xDE: 2}
    start = at + 1 + lengths[tag]
    count = int.from_bytes(data[at + 1 : start], "big")
    if tag == 0xDC:
        return items(data, start, count)
    if tag == 0xDE:
        return pairs(data, start, count)
    content = data[start : start + count]
    return (content if tag < 0xD0 else content.decode()), start + count


def items(data, at, count):
    found = []
    for _ in range(count):
        value, at = unpacked(data, at)
        found.append(value)
    return found, at


def pairs(data, at, count):
    flat, at = items(data, at, 2 * count)
    return dict(zip(flat[::2], flat[1::2], strict=True)), at


def tree(content):
    return blake2b(b"".join(blake2b(content[at : at + 2**20]) for at in range(0, len(content), 2**20)))


def test_an_independent_reader_gets_the_chain_and_the_final_weights(run):
    connection = sqlite3.connect(f"file:{run / 'ledger.db'}?mode=ro", uri=True)
    said = dict(connection.execute("SELECT key, value FROM run"))
    rows = connection.execute("SELECT round, phase, entry, metrics, state, chain FROM rounds ORDER BY round").fetchall()
    files = {row[0]: row[1:] for row in connection.execute("SELECT digest, file, bytes FROM snapshots")}
    connection.close()

    def lp(content):
        return struct.pack("<Q", len(content)) + content

    previous = blake2b(b"zowarmup/ledger/1" + lp(said["identity"]) + blake2b(said["table"]) + said["data"])
    assert len(rows) == 8
    for expected, (round, phase, entry, metrics, state, link) in enumerate(rows):
        place = struct.pack("<Qi", round, phase)
        previous = blake2b(b"zowarmup/round/1" + previous + place + lp(entry) + state + lp(metrics))
        assert (round, link) == (expected, previous)

    names, sizes = parameters(said["table"])
    segments, offset, base = [], 0, 0
    for size in sizes:
        segments.append((offset, size, base))
        offset, base = offset + size, base + -(-size // 4096) * 4096

    entries = {row[0]: unpacked(row[2])[0] for row in rows[1:]}
    pivot = max(round for round, entry in entries.items() if entry[0] == "replacement")
    assert pivot == 3
    digest = rows[pivot][4]
    assert entries[pivot][5] == digest.hex()
    content = (run / "snapshots" / f"{digest.hex()}.safetensors").read_bytes()
    assert (blake2b(content), len(content)) == files[digest]
    tensors = safetensors.numpy.load(content)
    assert sorted(tensors) == sorted(names)
    weights = np.concatenate([tensors[name].ravel() for name in names])
    assert blake2b(tree(weights.tobytes())) == digest

    for round in range(pivot + 1, len(rows)):
        kind, number, phase, _, _, seed, (dtype, (count,), integers), exponent, _, frozen = entries[round]
        assert (kind, number, phase, dtype, frozen) == ("update", round, 1, "<i4", b"")
        coefficients = np.frombuffer(integers, "<i4")
        assert len(coefficients) == count
        for start, size, base in segments:
            total = np.zeros(size, np.int64)
            for stream, coefficient in enumerate(coefficients.tolist()):
                total += np.where(philox.bits(seed, stream, base, size), -coefficient, coefficient)
            weights[start : start + size] += total.astype(np.float32) * np.float32(2.0**-exponent)
        assert blake2b(tree(weights.tobytes())) == rows[round][4]
    summary = json.loads((run / "summary.json").read_text())
    assert (rows[-1][4].hex(), rows[-1][5].hex()) == (summary["state_digest"], summary["chain"])


def parameters(table):
    """Names and sizes from the bytes of a tensor table."""
    assert table[:16] == b"zowarmup/table/1"
    (count,), at = struct.unpack_from("<I", table, 16), 20
    names, sizes = [], []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", table, at)
        names.append(table[at + 4 : at + 4 + length].decode())
        (dimensions,) = struct.unpack_from("<I", table, at := at + 4 + length)
        sizes.append(int(np.prod(struct.unpack_from(f"<{dimensions}Q", table, at + 4))))
        at += 4 + 8 * dimensions
    assert at == len(table)
    return names, sizes


def test_an_independent_reader_gets_what_metrics_jsonl_says(run):
    connection = sqlite3.connect(f"file:{run / 'ledger.db'}?mode=ro", uri=True)
    rows = connection.execute("SELECT metrics FROM rounds ORDER BY round").fetchall()
    connection.close()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for (metrics,), line in zip(rows, lines, strict=True):
        up, down, _, forward, backward, _, replayed, evaluation = unpacked(metrics)[0]
        counts = (up, down, forward, backward, replayed)
        names = ("uplink_bytes", "downlink_bytes", "forward_samples", "backward_samples", "replayed_directions")
        assert [[line[name]["high"], line[name]["low"]] for name in names] == list(counts)
        assert (evaluation or {}).get("accuracy") == line.get("accuracy")


def test_a_replacement_says_what_it_names():
    entry = Replacement(round=1, phase=0, members=members([3]), snapshot="ab" * 32)
    kind, *rest = unpacked(encode(entry))[0]
    assert (kind, rest) == ("replacement", [1, 0, b"\x08", {}, "ab" * 32, ""])
