"""`zowarmup certs`: what it says it made and kept."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from zowarmup import certs as module

from .conftest import Cli


@pytest.fixture
def certs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs ``zowarmup certs`` on the first of March 2030."""
    pytest.importorskip("cryptography", reason="the extra `flower` is not installed")
    monkeypatch.setattr(module, "_now", lambda: datetime(2030, 3, 1, 12, tzinfo=UTC))
    return lambda *arguments: cli("certs", *arguments)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_everything_is_made(certs, tmp_path: Path) -> None:
    assert certs("fed", "--node", "pi-1", "pi-2") == (
        0,
        """\
made  fed/ca.key
made  fed/ca.crt          authority, until 2040-02-27
made  fed/server.key
made  fed/server.crt      localhost, 127.0.0.1, ::1, until 2031-03-01
made  fed/nodes/pi-1.key
made  fed/nodes/pi-1.pub
made  fed/nodes/pi-2.key
made  fed/nodes/pi-2.pub
""",
        "",
    )
    nodes = [f"fed/nodes/pi-{number}.{suffix}" for number in (1, 2) for suffix in ("key", "pub")]
    assert files(tmp_path) == ["fed/ca.crt", "fed/ca.key", *nodes, "fed/server.crt", "fed/server.key"]


def test_what_is_there_is_kept_and_what_is_missing_is_added(certs) -> None:
    certs("fed", "--node", "a")
    assert certs("fed", "--host", "fl.example.org", "--host", "10.0.0.1", "--node", "a", "b", "--days", "30") == (
        0,
        """\
made  fed/server.crt   fl.example.org, 10.0.0.1, until 2030-03-31; the one before is for localhost, 127.0.0.1, ::1
made  fed/nodes/b.key
made  fed/nodes/b.pub
kept  fed/ca.crt       authority, until 2040-02-27
kept  fed/ca.key
kept  fed/server.key
kept  fed/nodes/a.key
kept  fed/nodes/a.pub
""",
        "",
    )


def test_json(certs) -> None:
    certs("fed")
    ended = certs("fed", "--host", "fl.example.org", "--json")
    found = json.loads(ended.out)
    ends = {name: each.pop("not_after") for name, each in found["certificates"].items()}
    assert found == {
        "made": ["fed/server.crt"],
        "kept": ["fed/ca.crt", "fed/ca.key", "fed/server.key"],
        "replaced": "is for localhost, 127.0.0.1, ::1",
        "certificates": {
            "ca.crt": {"subject": "CN=zowarmup test authority", "hosts": []},
            "server.crt": {"subject": "CN=zowarmup test server", "hosts": ["fl.example.org"]},
        },
    }
    assert ends == {"ca.crt": "2040-02-27T12:00:00Z", "server.crt": "2031-03-01T12:00:00Z"}
    assert (ended.code, ended.err) == (0, "")


HELP = "hint: `zowarmup --help`, or `zowarmup COMMAND --help`\n"
REFUSED = [
    ("", f'zowarmup: command "certs" parameter DIR requires an argument\n{HELP}'),
    ("fed --days 0", "zowarmup: days = 0, expected 1 to 36500\n"),
    ("fed --days soon", f'zowarmup: invalid value for --days: unable to convert "soon" into int\n{HELP}'),
    ("fed --host a:9092", "zowarmup: host 'a:9092': expected a DNS name or an IP address, without a port\n"),
    (
        "fed --node ../a",
        "zowarmup: node '../a': files are named after it, expected up to 64 letters, digits, `_`, `-` and `.`, the "
        "first a letter, a digit or `_`\n",
    ),
    ("fed --node a b a", "zowarmup: node a is given twice\nhint: each node once\n"),
    ("/proc/nope/fed", "zowarmup: /proc/nope/fed: cannot be written to: No such file or directory\n"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[arguments for arguments, _ in REFUSED])
def test_a_mistake_leaves_nothing_behind(certs, tmp_path: Path, arguments: str, message: str) -> None:
    assert certs(*arguments.split()) == (2, "", message)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_left_alone(certs, tmp_path: Path) -> None:
    (tmp_path / "fed").write_text("kept")
    assert certs("fed") == (2, "", "zowarmup: fed: is a file, expected a directory\n")
    assert (tmp_path / "fed").read_text() == "kept"


def test_a_broken_authority_is_named(certs, tmp_path: Path) -> None:
    certs("fed")
    (tmp_path / "fed" / "ca.crt").write_text("junk")
    assert certs("fed", "--node", "a") == (2, "", "zowarmup: fed/ca.crt: is not a certificate in PEM\n")
    assert files(tmp_path / "fed") == ["ca.crt", "ca.key", "server.crt", "server.key"]


def test_the_library_is_asked_for(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert cli("certs", "fed") == (
        2,
        "",
        "zowarmup: certificates need `cryptography`, which is not installed\nhint: pip install 'zowarmup[flower]'\n",
    )
    assert list(tmp_path.iterdir()) == []
