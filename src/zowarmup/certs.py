"""A certificate authority for tests, and what a federation over TLS needs of it: a server's certificate, nodes' keys.

DIR/ca.crt              the authority: nodes trust it, and who starts runs
DIR/ca.key              signs server certificates, and is needed for nothing else
DIR/server.crt          the server's certificate, for its hosts
DIR/server.key
DIR/nodes/NAME.key      a node's own key, in OpenSSH's format
DIR/nodes/NAME.pub      what the server is told of it
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zowarmup import signing
from zowarmup.disk import Disk, writing
from zowarmup.errors import DiskError, OutputError, UsageError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

HOSTS = ("localhost", "127.0.0.1", "::1")
"""Where a server is looked for when nobody says."""
DAYS, MOST_DAYS = 365, 36_500

_LONGER = 10  # times as long as a server's certificate an authority is valid
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_LONGEST = 253  # characters of a DNS name
_NODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_NEW_AUTHORITY = "a new authority goes into a new folder, and every node needs its ca.crt"


class Files(NamedTuple):
    """What a server speaks TLS with."""

    ca: Path
    certificate: Path
    key: Path


class Description(NamedTuple):
    """What a certificate says."""

    subject: str
    hosts: tuple[str, ...]
    """DNS names and IP addresses that it is for; none for an authority."""
    not_after: datetime
    """In UTC."""


@dataclass(frozen=True)
class Issued:
    """What :func:`issue` did."""

    made: tuple[Path, ...]
    kept: tuple[Path, ...]
    """What was there before and still holds."""
    replaced: str | None
    """What the server's certificate before was like, where another was made in its place: ``"is for localhost"``."""


class _Authority(NamedTuple):
    certificate: x509.Certificate
    key: EllipticCurvePrivateKey | None
    """None where it is kept elsewhere."""


def issue(folder: Path, *, hosts: Sequence[str] = (), nodes: Sequence[str] = (), days: int = DAYS) -> Issued:
    """Make what is missing in a folder; an authority and keys that are there are kept.

    A node's key may be on the node alone: where its public key is there, nothing is made for that node.

    Args:
        folder: made with its parents.
        hosts: DNS names and IP addresses of the server; where none are given, those of the certificate that is there,
            or :data:`HOSTS`.
        nodes: names of nodes, which files are named after.
        days: how long a server's certificate that is made now is valid, unless its authority ends before; a new
            authority is valid ten times as long.

    Raises:
        OutputError: the folder is a file, or cannot be written to.
        UsageError: a name, ``days`` or a file that is there cannot be used, or the authority has expired; or
            `cryptography` is not installed. Nothing was written.
        DiskError: a file could not be written; none of the new ones stays.
    """
    signing.need()
    if not 1 <= days <= MOST_DAYS:
        raise UsageError(f"days = {days}, expected 1 to {MOST_DAYS}", days=days)
    names, members = _each_once("host", map(_host, hosts)), _each_once("node", map(_node, nodes))
    _check_folder(folder)
    draft = _Draft(folder, days)
    authority = draft.authority()
    replaced = draft.server(authority, names)
    for name in members:
        draft.node(name)
    _write(draft.made)
    return Issued(tuple(draft.made), tuple(draft.kept), replaced)


def server_files(folder: Path) -> Files:
    """The files that a server speaks TLS with, checked.

    Raises:
        UsageError: one is missing or cannot be read, a certificate has expired or is not valid yet, or they do not
            belong together; or `cryptography` is not installed.
    """
    signing.need()
    files, again = _files(folder), f"`zowarmup certs {folder}` makes it"
    for path in files:
        if not path.exists():
            raise UsageError(f"{path}: missing", hint=again, path=path)
    ca, certificate = signing.read_certificate(files.ca), signing.read_certificate(files.certificate)
    _check_dates(ca, files.ca, hint=_NEW_AUTHORITY)
    _check_dates(certificate, files.certificate, hint=f"`zowarmup certs {folder}` makes another")
    if message := signing.mismatch(certificate, ca, signing.read_key(files.key)):
        hint = f"`zowarmup certs {folder}` makes another"
        raise UsageError(f"{files.certificate}: {message}", hint=hint, path=files.certificate)
    return files


def describe(path: Path) -> Description:
    """What a certificate says.

    Raises:
        UsageError: it cannot be read, or `cryptography` is not installed.
    """
    signing.need()
    certificate = signing.read_certificate(path)
    subject = certificate.subject.rfc4514_string()
    return Description(subject, signing.hosts(certificate), certificate.not_valid_after_utc)


class _Draft:
    """What is kept of a folder, and what is to be written into it; nothing is written here."""

    def __init__(self, folder: Path, days: int) -> None:
        self._folder, self._days, self._files = folder, days, _files(folder)
        self.made: dict[Path, bytes] = {}
        self.kept: list[Path] = []

    def authority(self) -> _Authority:
        """The authority that is there, or a new one."""
        path, key_path = self._files.ca, self._folder / "ca.key"
        if not path.exists():
            key, now = self._tls_key(key_path), _now()
            certificate = signing.authority(key, now, now + timedelta(days=_LONGER * self._days))
            self.made[path] = signing.certificate_pem(certificate)
            return _Authority(certificate, key)
        certificate = signing.read_certificate(path)
        if not signing.is_authority(certificate):
            raise UsageError(f"{path}: is not the certificate of an authority", path=path)
        _check_dates(certificate, path, hint=_NEW_AUTHORITY)
        self.kept.append(path)
        if not key_path.exists():
            return _Authority(certificate, None)
        key = self._tls_key(key_path)
        if key.public_key() != certificate.public_key():
            raise UsageError(f"{key_path}: is not the key of {path}", hint="put back the one that is", path=key_path)
        return _Authority(certificate, key)

    def server(self, authority: _Authority, hosts: tuple[str, ...]) -> str | None:
        """Keep the server's certificate, or make one; what was wrong with the one before, where there was one."""
        path, wrong = self._files.certificate, None
        before = signing.read_certificate(path) if path.exists() else None
        key = self._tls_key(self._files.key)
        hosts = hosts or (signing.hosts(before) if before else ()) or HOSTS
        if before is not None:
            wrong = _outdated(before, hosts) or signing.mismatch(before, authority.certificate, key)
            if wrong is None:
                self.kept.append(path)
                return None
        if authority.key is None:
            ca_key = self._folder / "ca.key"
            raise UsageError(f"{ca_key}: missing, and has to sign {path}", hint="put it back", path=ca_key)
        now, ca = _now(), authority.certificate
        end = min(now + timedelta(days=self._days), ca.not_valid_after_utc)
        made = signing.server(key, ca, authority.key, hosts, now, end)
        self.made[path] = signing.certificate_pem(made)
        return wrong

    def node(self, name: str) -> None:
        """Keep a node's keys, or what there is of them, and make what is missing."""
        private, public = (self._folder / "nodes" / f"{name}{suffix}" for suffix in (".key", ".pub"))
        if public.exists() and not private.exists():
            self.kept.append(public)
            return
        if private.exists():
            key = signing.read_node_key(private)
            self.kept.append(private)
        else:
            key = signing.new_node_key()
            self.made[private] = signing.openssh(key)
        line = signing.openssh_public(key)
        if not public.exists():
            self.made[public] = line + f" {name}\n".encode()
            return
        if signing.read(public).split()[:2] != line.split():
            raise UsageError(f"{public}: is not the public key of {private}", hint="remove it", path=public)
        self.kept.append(public)

    def _tls_key(self, path: Path) -> EllipticCurvePrivateKey:
        """The key that is there, or a new one."""
        if path.exists():
            self.kept.append(path)
            return signing.read_key(path)
        key = signing.new_tls_key()
        self.made[path] = signing.pem(key)
        return key


def _files(folder: Path) -> Files:
    return Files(folder / "ca.crt", folder / "server.crt", folder / "server.key")


def _now() -> datetime:
    return datetime.now(UTC)


def _outdated(certificate: x509.Certificate, hosts: tuple[str, ...]) -> str | None:
    """Why a server's certificate needs another in its place, or None."""
    found, end = signing.hosts(certificate), certificate.not_valid_after_utc
    if set(found) != set(hosts):
        return f"is for {', '.join(found) or 'no host'}"
    return f"has expired on {end:%Y-%m-%d}" if end < _now() else None


def _check_dates(certificate: x509.Certificate, path: Path, *, hint: str) -> None:
    """Refuse a certificate that does not hold today."""
    now, begin, end = _now(), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        message = f"{path}: has expired: valid until {_date(end)}, and it is {_date(now)}"
        raise UsageError(message, hint=hint, path=path, not_after=end)
    if now < begin:
        message = f"{path}: is not valid yet: valid from {_date(begin)}, and it is {_date(now)}"
        raise UsageError(message, hint="is the clock right?", path=path, not_before=begin)


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _host(text: str) -> str:
    """A DNS name in lower case, or an IP address as it is written in short."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(text)
        if "%" not in text:  # a zone belongs to one machine alone
            return str(address)
    labels = text.lower().split(".")
    if len(text) > _LONGEST or labels[-1].isdigit() or not all(map(_LABEL.fullmatch, labels)):
        raise UsageError(f"host {text!r}: expected a DNS name or an IP address, without a port", host=text)
    return text.lower()


def _node(name: str) -> str:
    if not _NODE.fullmatch(name):
        expected = "expected up to 64 letters, digits, `_`, `-` and `.`, the first a letter, a digit or `_`"
        raise UsageError(f"node {name!r}: files are named after it, {expected}", node=name)
    return name


def _each_once(what: str, names: Iterable[str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        if name in found:
            raise UsageError(f"{what} {name} is given twice", hint=f"each {what} once")
        found.append(name)
    return tuple(found)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to; writes nothing."""
    try:
        for place in (folder, folder / "nodes"):
            there = next(parent for parent in (place, *place.parents) if parent.exists())
            if not there.is_dir():
                raise OutputError(f"{there}: is a file, expected a directory", path=there)
            if not os.access(there, os.W_OK | os.X_OK):
                raise OutputError(f"{there}: cannot be written to: no permission", path=there)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be used: {error.strerror}", path=folder) from error


def _write(made: Mapping[Path, bytes]) -> None:
    """Write files: all of the new ones, or none."""
    disk = Disk()
    fresh = [path for path in made if not path.exists()]
    parents = dict.fromkeys(parent for path in made for parent in path.absolute().parents)
    folders = sorted((parent for parent in parents if not parent.exists()), reverse=True)  # the deepest first
    try:
        for path in sorted(made, key=lambda path: path not in fresh):  # what replaces another comes last
            _make_folder(disk, path.parent)
            write = _write_private if path.suffix == ".key" else disk.write
            write(path, made[path])
    except BaseException as error:
        _remove(fresh, folders)
        if isinstance(error, DiskError):  # whose hint is about runs
            raise DiskError(error.message, hint="nothing was made; the same command tries again") from error
        raise


def _remove(files: Iterable[Path], folders: Iterable[Path]) -> None:
    """Remove what there is of these; why something had to be removed says more than why it could not."""
    for path in files:
        with contextlib.suppress(OSError):
            path.unlink()
    for path in folders:
        with contextlib.suppress(OSError):
            path.rmdir()


def _make_folder(disk: Disk, folder: Path) -> None:
    try:
        disk.mkdir(folder)
    except DiskError as error:
        assert isinstance(error.__cause__, OSError)
        raise OutputError(f"{folder}: cannot be written to: {error.__cause__.strerror}", path=folder) from error


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that its owner alone can read, from its first byte on."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
        Disk().rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error says more
            temporary.unlink(missing_ok=True)
        raise
