"""Certificates and keys of a federation: who believes them, what is kept, what is refused."""

from __future__ import annotations

import argparse
import errno
import os
import re
import shutil
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="the extra `flower` is not installed")

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.verification import PolicyBuilder, Store

from zowarmup import certs
from zowarmup.certs import HOSTS, issue, server_files
from zowarmup.errors import DiskError, OutputError, UsageError

PLAIN = ["ca.crt", "ca.key", "server.crt", "server.key"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for localhost with one node; not to be changed."""
    folder = tmp_path_factory.mktemp("certs") / "fed"
    issue(folder, nodes=("a",))
    return folder


@pytest.fixture
def fed(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "fed"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def at(monkeypatch: pytest.MonkeyPatch, **later: float) -> None:
    """Let it be later, or earlier."""
    moment = datetime.now(UTC) + timedelta(**later)
    monkeypatch.setattr(certs, "_now", lambda: moment)


def names(paths: tuple[Path, ...]) -> list[str]:
    return [path.name for path in paths]


# Who believes them


def handshake(server: certs.Files, ca: Path, host: str) -> None:
    """Connect over TLS, as a client that trusts an authority and looks for a host; raises what the client does."""
    of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    of_server.load_cert_chain(server.certificate, server.key)
    of_client = ssl.create_default_context(cafile=ca)
    of_client.verify_flags |= ssl.VERIFY_X509_STRICT

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        try:
            with of_server.wrap_socket(connection, server_side=True) as tls:
                tls.sendall(tls.recv(5))
        except (ssl.SSLError, ConnectionError):
            connection.close()  # the client did not like what it saw, and says so

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        try:
            with (
                socket.create_connection(listening.getsockname(), timeout=10) as plain,
                of_client.wrap_socket(plain, server_hostname=host) as tls,
            ):
                tls.sendall(b"hello")
                assert tls.recv(5) == b"hello"
        finally:
            thread.join()


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_that_trusts_the_authority_talks_to_its_server(made, host):
    files = server_files(made)
    handshake(files, files.ca, host)


def test_a_client_refuses_a_server_of_another_name(made):
    files = server_files(made)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(files, files.ca, "example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        handshake(files, files.ca, "127.0.0.2")


def test_a_client_refuses_the_server_of_another_authority(made, tmp_path):
    issue(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate verify failed"):
        handshake(server_files(made), tmp_path / "other" / "ca.crt", "localhost")


def test_the_chain_holds_by_the_rules_of_the_web(made):
    store = Store([certificate(made / "ca.crt")])
    verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("localhost"))
    assert len(verifier.verify(certificate(made / "server.crt"), [])) == 2


def test_nodes_keys_are_a_pair_on_p_384(made):
    private = serialization.load_ssh_private_key((made / "nodes" / "a.key").read_bytes(), password=None)
    public = serialization.load_ssh_public_key((made / "nodes" / "a.pub").read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP384R1)
    assert private.public_key() == public
    assert (made / "nodes" / "a.pub").read_bytes().endswith(b" a\n")


def test_flower_takes_nodes_keys(made):
    pytest.importorskip("flwr", reason="the extra `flower` is not installed")
    from flwr.cli.supernode.register import try_load_public_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

    arguments = {"auth_supernode_private_key": str(made / "nodes" / "a.key"), "auth_supernode_public_key": None}
    pair = _try_setup_client_authentication(argparse.Namespace(**arguments))
    assert pair is not None
    assert try_load_public_key(made / "nodes" / "a.pub") == public_key_to_bytes(pair[1])


def test_private_keys_are_their_owners_alone(made):
    modes = {path.name: path.stat().st_mode & 0o777 for path in made.rglob("*") if path.is_file()}
    assert {name for name, mode in modes.items() if mode == 0o600} == {"ca.key", "server.key", "a.key"}
    assert all(mode & 0o044 for name, mode in modes.items() if not name.endswith(".key"))


def test_a_server_is_valid_as_long_as_was_asked_and_its_authority_ten_times(tmp_path):
    issue(tmp_path, days=30)
    now = datetime.now(UTC)
    for name, days in (("server.crt", 30), ("ca.crt", 300)):
        assert abs(certs.describe(tmp_path / name).not_after - now - timedelta(days=days)) < timedelta(minutes=5)
        assert certificate(tmp_path / name).not_valid_before_utc < now - timedelta(hours=23)


def test_a_certificate_is_described(fed):
    issue(fed, hosts=("FL.example.org", "10.0.0.1", "2001:db8:0::1"))
    assert certs.describe(fed / "server.crt")[:2] == (
        "CN=zowarmup test server",
        ("fl.example.org", "10.0.0.1", "2001:db8::1"),
    )
    assert certs.describe(fed / "ca.crt")[:2] == ("CN=zowarmup test authority", ())


# What is kept, and what is made anew


def test_again_nothing_is_made(fed):
    before = contents(fed)
    issued = issue(fed, nodes=("a",))
    assert (issued.made, issued.replaced) == ((), None)
    assert sorted(names(issued.kept)) == ["a.key", "a.pub", *PLAIN]
    assert contents(fed) == before


def test_a_node_is_added(fed):
    before = contents(fed)
    assert names(issue(fed, nodes=("b",)).made) == ["b.key", "b.pub"]
    assert before.items() < contents(fed).items()


def test_other_hosts_get_another_certificate_and_the_key_stays(fed):
    before = contents(fed)
    issued = issue(fed, hosts=("fl.example.org",))
    assert (names(issued.made), issued.replaced) == (["server.crt"], "is for localhost, 127.0.0.1, ::1")
    after = contents(fed)
    assert {name for name in before if before[name] != after[name]} == {"server.crt"}
    files = server_files(fed)
    handshake(files, files.ca, "fl.example.org")
    assert issue(fed, nodes=("b",)).replaced is None  # without hosts those of the certificate stay
    assert issue(fed, hosts=("fl.example.org",)).made == ()


def test_an_expired_certificate_gets_another_for_the_same_hosts(fed, monkeypatch):
    issue(fed, hosts=("fl.example.org",))
    until = certs.describe(fed / "server.crt").not_after
    at(monkeypatch, days=400)
    issued = issue(fed)
    assert (names(issued.made), issued.replaced) == (["server.crt"], f"has expired on {until:%Y-%m-%d}")
    found = certs.describe(fed / "server.crt")
    assert found.hosts == ("fl.example.org",)
    assert found.not_after > until + timedelta(days=300)


def test_no_certificate_outlives_its_authority(fed, monkeypatch):
    end = certs.describe(fed / "ca.crt").not_after
    at(monkeypatch, days=3640)
    issue(fed)
    assert certs.describe(fed / "server.crt").not_after == end


def replaced_key(fed: Path) -> None:
    (fed / "server.key").unlink()


def foreign_certificate(fed: Path) -> None:
    issue(fed.with_name("other"))
    for name in ("server.crt", "server.key"):
        shutil.copy(fed.with_name("other") / name, fed / name)


@pytest.mark.parametrize(
    ("change", "replaced"),
    [(replaced_key, "is for another key"), (foreign_certificate, "is signed by another authority")],
)
def test_a_certificate_that_does_not_belong_gets_another(fed, change, replaced):
    change(fed)
    assert issue(fed).replaced == replaced
    files = server_files(fed)
    handshake(files, files.ca, "localhost")


def test_what_was_lost_is_made_for_the_key_that_is_there(fed):
    before = contents(fed)
    for name in ("ca.crt", "server.crt", "nodes/a.pub"):
        (fed / name).unlink()
    assert sorted(names(issue(fed, nodes=("a",)).made)) == ["a.pub", "ca.crt", "server.crt"]
    assert {name: before[name] for name in before if name.endswith((".key", ".pub"))}.items() < contents(fed).items()
    files = server_files(fed)
    handshake(files, files.ca, "localhost")


def test_keys_may_be_elsewhere(fed):
    """The authority's where it is safe, a node's on the node."""
    (fed / "ca.key").unlink()
    (fed / "nodes" / "a.key").unlink()
    issued = issue(fed, nodes=("a", "b"))
    assert names(issued.made) == ["b.key", "b.pub"]
    assert sorted(names(issued.kept)) == ["a.pub", "ca.crt", "server.crt", "server.key"]


# What is refused, and leaves everything as it was


def junk(name: str) -> Callable[[Path], None]:
    return lambda fed: (fed / name).write_text("junk") and None


def moved(name: str, to: str) -> Callable[[Path], None]:
    return lambda fed: shutil.copy(fed / name, fed / to) and None


def other_authority_key(fed: Path) -> None:
    issue(fed.with_name("other"))
    shutil.copy(fed.with_name("other") / "ca.key", fed / "ca.key")


def other_node(fed: Path) -> None:
    issue(fed, nodes=("b",))
    shutil.copy(fed / "nodes" / "b.pub", fed / "nodes" / "a.pub")


def key_of_another_kind(name: str, style: serialization.PrivateFormat) -> Callable[[Path], None]:
    key = ed25519.Ed25519PrivateKey.generate()
    content = key.private_bytes(serialization.Encoding.PEM, style, serialization.NoEncryption())
    return lambda fed: (fed / name).write_bytes(content) and None


def locked_key(fed: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    style, lock = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
    (fed / "ca.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, style, lock))


def folder_for(name: str) -> Callable[[Path], None]:
    def change(fed: Path) -> None:
        (fed / name).unlink()
        (fed / name).mkdir()

    return change


def file_for_nodes(fed: Path) -> None:
    shutil.rmtree(fed / "nodes")
    (fed / "nodes").write_text("junk")


NO_KEY, NO_NODE_KEY = "is not a private key in PEM without a password", "is not a private key of OpenSSH without a "
OTHER_KIND = "is another kind of key, expected one on an elliptic curve"
PKCS8, OPENSSH = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.OpenSSH
BROKEN = [
    ("ca.crt", junk("ca.crt"), "ca.crt: is not a certificate in PEM"),
    ("ca.crt a folder", folder_for("ca.crt"), "ca.crt: cannot be read: Is a directory"),
    ("ca.crt a server's", moved("server.crt", "ca.crt"), "ca.crt: is not the certificate of an authority"),
    ("ca.key", junk("ca.key"), f"ca.key: {NO_KEY}"),
    ("ca.key locked", locked_key, f"ca.key: {NO_KEY}"),
    ("ca.key of another kind", key_of_another_kind("ca.key", PKCS8), f"ca.key: {OTHER_KIND}"),
    ("ca.key another's", other_authority_key, "ca.key: is not the key of FED/ca.crt\nhint: put back the one that is"),
    ("server.crt", junk("server.crt"), "server.crt: is not a certificate in PEM"),
    ("server.key", junk("server.key"), f"server.key: {NO_KEY}"),
    ("node's key", junk("nodes/a.key"), f"nodes/a.key: {NO_NODE_KEY}"),
    ("node's key of another kind", key_of_another_kind("nodes/a.key", OPENSSH), f"nodes/a.key: {OTHER_KIND}"),
    ("node's public key", junk("nodes/a.pub"), "nodes/a.pub: is not the public key of FED/nodes/a.key\nhint: remove "),
    ("node's public key another's", other_node, "nodes/a.pub: is not the public key of FED/nodes/a.key\nhint: "),
    ("nodes a file", file_for_nodes, "nodes: is a file, expected a directory"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_file_that_cannot_be_used_is_named(fed, change, message):
    change(fed)
    before = contents(fed)
    with pytest.raises(UsageError) as caught:
        issue(fed, hosts=("elsewhere",), nodes=("new", "a"))
    assert str(caught.value).startswith(f"{fed}/{message.replace('FED', str(fed))}")
    assert contents(fed) == before


def test_an_expired_authority_is_refused(fed, monkeypatch):
    before = contents(fed)
    at(monkeypatch, days=3651)
    with pytest.raises(UsageError, match=r"ca\.crt: has expired: valid until .* UTC, and it is .* UTC") as caught:
        issue(fed, nodes=("b",))
    assert caught.value.hint == "a new authority goes into a new folder, and every node needs its ca.crt"
    assert contents(fed) == before


def test_without_the_authoritys_key_no_certificate_is_made(fed):
    (fed / "ca.key").unlink()
    before = contents(fed)
    with pytest.raises(UsageError, match=r"ca\.key: missing, and has to sign .*/server\.crt\nhint: put it back"):
        issue(fed, hosts=("elsewhere",), nodes=("b",))
    assert contents(fed) == before


NAMES = [
    ({"hosts": [host]}, rf"host {host!r}: expected a DNS name or an IP address, without a port")
    for host in ("", "a:80", "[::1]", "300.1.2.3", "fe80::1%eth0", "a..b", "-a", "a b", "ä.org", "a." * 130 + "a")
] + [
    ({"nodes": [node]}, rf"node {node!r}: files are named after it, expected up to 64 letters, digits, ")
    for node in ("", ".", "..", "../a", "a/b", "-a", "a b", "a\0", "ä", "a" * 65)
]


@pytest.mark.parametrize(("names", "message"), NAMES, ids=[str(names)[:40] for names, _ in NAMES])
def test_a_name_that_cannot_be_is_refused(tmp_path, names, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        issue(tmp_path / "fed", **names)
    assert not (tmp_path / "fed").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"days": 0}, "days = 0, expected 1 to 36500"),
        ({"days": 36_501}, "days = 36501, expected 1 to 36500"),
        ({"nodes": ["a", "b", "a"]}, "node a is given twice\nhint: each node once"),
        ({"hosts": ["a", "A"]}, "host a is given twice\nhint: each host once"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, given, message):
    with pytest.raises(UsageError) as caught:
        issue(tmp_path / "fed", **given)
    assert str(caught.value) == message
    assert not (tmp_path / "fed").exists()


def test_the_longest_validity_can_be_written(tmp_path):
    issue(tmp_path, days=36_500)
    assert certs.describe(tmp_path / "ca.crt").not_after.year > 3000


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("kept")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="/file: is a file, expected a directory"):
            issue(folder)
    with pytest.raises(OutputError, match=r"^/proc/nope/fed: cannot be written to: No such file or directory$"):
        issue(Path("/proc/nope/fed"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(OutputError, match=": cannot be written to: no permission"):
        issue(tmp_path / "fed")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("fails", range(6))
def test_a_disk_that_fills_up_leaves_nothing_of_what_was_begun(tmp_path, monkeypatch, fails):
    rename, calls = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) > fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(DiskError, match="No space left on device\nhint: nothing was made; the same "):
            issue(tmp_path / "deep" / "fed", nodes=("a",))
    assert list(tmp_path.iterdir()) == []
    assert len(issue(tmp_path / "deep" / "fed", nodes=("a",)).made) == 6


def test_a_disk_that_fills_up_leaves_what_was_there(fed, monkeypatch):
    before = contents(fed)

    def replace(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(DiskError):
        issue(fed, hosts=("elsewhere",), nodes=("b",))
    assert contents(fed) == before


# A server's files


@pytest.mark.parametrize("name", ["ca.crt", "server.crt", "server.key"])
def test_a_server_says_which_file_is_missing(fed, name):
    (fed / name).unlink()
    with pytest.raises(UsageError) as caught:
        server_files(fed)
    assert str(caught.value) == f"{fed / name}: missing\nhint: `zowarmup certs {fed}` makes it"


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (
            400,
            r"server\.crt: has expired: valid until {until}.*, and it is {now}.*\nhint: `zowarmup certs \S+` makes an",
        ),
        (
            4000,
            r"ca\.crt: has expired: valid until .*, and it is {now}.*\nhint: a new authority goes into a new folder",
        ),
        (-2, r"ca\.crt: is not valid yet: valid from .*, and it is {now}.*\nhint: is the clock right\?"),
    ],
)
def test_a_server_says_when_its_certificate_is_valid(fed, monkeypatch, later, message):
    until = certs.describe(fed / "server.crt").not_after
    at(monkeypatch, days=later)
    with pytest.raises(UsageError, match=message.format(until=f"{until:%Y-%m-%d}", now=f"{certs._now():%Y-%m-%d}")):
        server_files(fed)


def foreign_key(fed: Path) -> None:
    (fed / "server.key").unlink()
    shutil.copy(fed / "ca.key", fed / "server.key")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (foreign_key, r"server\.crt: is for another key\nhint: `zowarmup certs \S+` makes another"),
        (foreign_certificate, r"server\.crt: is signed by another authority\nhint: "),
        (junk("server.key"), rf"server\.key: {NO_KEY}"),
        (junk("ca.crt"), r"ca\.crt: is not a certificate in PEM"),
    ],
)
def test_a_server_says_which_files_do_not_belong_together(fed, change, message):
    change(fed)
    with pytest.raises(UsageError, match=message):
        server_files(fed)
