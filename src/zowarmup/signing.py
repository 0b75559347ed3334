"""Keys and certificates of a federation: made, read, and held against each other. Everything that needs `cryptography`.

Keys of TLS are on P-256, which small devices verify fastest; those of nodes on P-384, as Flower wants them.
"""

from __future__ import annotations

import importlib.util
import ipaddress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from zowarmup.errors import UsageError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

_LAG = timedelta(days=1)  # a device's clock may be behind
_DIGITAL_SIGNATURE, _KEY_CERT_SIGN, _CRL_SIGN = 0, 5, 6  # places in x509.KeyUsage
_USAGES = 9


def need() -> None:
    """Refuse to go on without `cryptography`.

    Raises:
        UsageError: it is not installed; the hint says how to install it.
    """
    if importlib.util.find_spec("cryptography") is None:
        message = "certificates need `cryptography`, which is not installed"
        raise UsageError(message, hint="pip install 'zowarmup[flower]'")


def new_tls_key() -> EllipticCurvePrivateKey:
    """A new key for an authority or a server."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def new_node_key() -> EllipticCurvePrivateKey:
    """A new key for a node."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP384R1())


def pem(key: EllipticCurvePrivateKey) -> bytes:
    """A private key of TLS as its file holds it, not encrypted."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    content: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return content


def openssh(key: EllipticCurvePrivateKey) -> bytes:
    """A node's private key as its file holds it, not encrypted."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    content: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return content


def openssh_public(key: EllipticCurvePrivateKey) -> bytes:
    """A node's public key in OpenSSH's format, without a comment."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    content: bytes = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return content


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """A certificate as its file holds it."""
    from cryptography.hazmat.primitives.serialization import Encoding

    content: bytes = certificate.public_bytes(Encoding.PEM)
    return content


def read(path: Path) -> bytes:
    """What a file holds.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", path=path) from error


def read_key(path: Path) -> EllipticCurvePrivateKey:
    """A private key of TLS.

    Raises:
        UsageError: it cannot be read, or is of another kind.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path}: is not a private key in PEM without a password", path=path) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(f"{path}: is another kind of key, expected one on an elliptic curve", path=path)
    return key


def read_node_key(path: Path) -> EllipticCurvePrivateKey:
    """A node's private key.

    Raises:
        UsageError: it cannot be read, or is of another kind.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        key = load_ssh_private_key(read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path}: is not a private key of OpenSSH without a password", path=path) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(f"{path}: is another kind of key, expected one on an elliptic curve", path=path)
    return key


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate.

    Raises:
        UsageError: it cannot be read.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(read(path))
    except ValueError as error:
        raise UsageError(f"{path}: is not a certificate in PEM", path=path) from error


def hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    """DNS names and IP addresses that a certificate is for, in its order."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names if isinstance(name, (x509.DNSName, x509.IPAddress)))


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate is one that may sign others."""
    from cryptography import x509

    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    return bool(constraints.ca)


def mismatch(certificate: x509.Certificate, ca: x509.Certificate, key: EllipticCurvePrivateKey) -> str | None:
    """In what a server's certificate does not belong to its key or its authority; None where it does."""
    from cryptography.exceptions import InvalidSignature

    if certificate.public_key() != key.public_key():
        return "is for another key"
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, TypeError, ValueError):
        return "is signed by another authority"
    return None


def authority(key: EllipticCurvePrivateKey, now: datetime, end: datetime) -> x509.Certificate:
    """The certificate of a new authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    name = _named("zowarmup test authority")
    return (
        _begun(name, name, key, now, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(_KEY_CERT_SIGN, _CRL_SIGN), critical=True)
        .sign(key, hashes.SHA256())
    )


def server(
    key: EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: EllipticCurvePrivateKey,
    names: tuple[str, ...],
    now: datetime,
    end: datetime,
) -> x509.Certificate:
    """A server's certificate, signed by an authority, for DNS names and IP addresses."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _begun(_named("zowarmup test server"), ca.subject, key, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(_DIGITAL_SIGNATURE), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer, critical=False)
        .add_extension(alternatives, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _begun(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    """What every certificate begins with."""
    from cryptography import x509

    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LAG)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _named(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*allowed: int) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(*(place in allowed for place in range(_USAGES)))


def _alternative(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
