"""Certificates and private keys in files of PEM, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

T = TypeVar("T")

CERTIFICATES = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
PRIVATE_KEY = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
MIN_RSA_BITS = 2048  # what browsers, and OpenSSL by its usual level of security, ask for


@attrs.frozen
class CertificateFiles:
    """Where a certificate is, all in PEM.

    Attributes:
        certificate: path of the certificate, with the others of its chain behind it, as ``fullchain.pem`` of ACME
            clients is.
        key: path of its private key, which may be the same file.
        chain: path of more certificates of the chain; "" for none.
    """

    certificate: str
    key: str
    chain: str = ""


@attrs.frozen
class Fault:
    """What is wrong with a file.

    Attributes:
        role: "certificate", "key" or "chain", as the attributes of ``CertificateFiles``.
        path: of the file.
        words: a sentence with its path.
        unread: why the system could not open it; "" where it could.
    """

    role: str
    path: str
    words: str
    unread: str = ""


class CertificateError(ValueError):
    """Certificates can not be used; ``faults`` has all that is wrong with their files."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(dict.fromkeys(fault.words for fault in self.faults)))


@attrs.frozen
class Pem:
    """What files have.

    Attributes:
        files: where they are.
        contents: of all of them.
        chain: the certificates, that of the server first.
        key: its private key.
    """

    files: CertificateFiles
    contents: tuple[bytes, ...]
    chain: list[x509.Certificate]
    key: Any

    def notes(self, now: float) -> Iterator[str]:
        """Yield a sentence for each certificate that clients refuse *now*, in seconds since the epoch."""
        path = self.files.certificate
        for index, one in enumerate(self.chain):
            what = "the certificate" if not index else f"a certificate of its chain, {_called(one)},"
            begins, ends = one.not_valid_before_utc, one.not_valid_after_utc
            if ends.timestamp() <= now:
                yield f"{path}: {what} has expired at {_shown(ends)}: clients refuse it"
            elif begins.timestamp() > now:
                yield f"{path}: {what} is not valid before {_shown(begins)}: clients refuse it until then"
        key = self.chain[0].public_key()
        if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
            yield f"{path}: the key of the certificate is weak, many clients refuse it ({strength_of(self.chain[0])})"


def read_pem(files: CertificateFiles) -> Pem:
    """Return what *files* have.

    Raises:
        CertificateError: some of them can not be used; says which, and why.
    """
    contents: list[bytes] = []
    faults: list[Fault] = []

    def parsed(role: str, path: str, parse: Callable[[str, bytes], T]) -> T | None:
        try:
            with open(path, "rb") as file:
                text = file.read()
            contents.append(text)
            return parse(path, text)
        except OSError as error:
            reason = error.strerror or str(error)
            faults.append(Fault(role, path, f"{path}: {reason}", reason))
        except ValueError as error:
            faults.append(Fault(role, path, str(error)))
        return None

    chain = parsed("certificate", files.certificate, _certificates) or []
    key = parsed("key", files.key, _private_key)
    more = parsed("chain", files.chain, _certificates) if files.chain else None
    if not faults and not _is_pair(chain[0], key):
        faults.append(Fault("key", files.key, f"{files.key} is not the private key of {files.certificate}"))
    if faults:
        raise CertificateError(faults)
    known = set(chain)
    return Pem(files, tuple(contents), chain + [one for one in more or () if one not in known], key)


def strength_of(certificate: x509.Certificate) -> str:
    """Return of which kind and size the key of *certificate* is, and with which hash it is signed."""
    try:
        key: Any = certificate.public_key()
        size = getattr(key, "key_size", 0)
        name = type(key).__name__.removesuffix("PublicKey").lstrip("_")
        signed = certificate.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return "of an unknown kind"
    return f"{name}{f' of {size} bits' if size else ''}, {signed.name if signed else 'no hash'}"


def _is_pair(certificate: x509.Certificate, key: Any) -> bool:
    try:
        return bool(certificate.public_key() == key.public_key())
    except (ValueError, UnsupportedAlgorithm):
        return True  # OpenSSL says what it can not use


def _called(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return repr(str(names[0].value)) if names else certificate.subject.rfc4514_string()


def _shown(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _certificates(path: str, text: bytes) -> list[x509.Certificate]:
    """Return the certificates in *text*, of the file at *path*, in their order."""
    try:
        found = [x509.load_pem_x509_certificate(one) for one in CERTIFICATES.findall(text)]
    except ValueError:
        raise ValueError(f"{path} has a certificate that is no PEM") from None
    if not found:
        raise ValueError(f"{path} has no certificate in PEM")
    return found


def _private_key(path: str, text: bytes) -> Any:
    found = PRIVATE_KEY.search(text)
    if found is None:
        raise ValueError(f"{path} has no private key in PEM")
    try:
        return load_pem_private_key(found[0], None)
    except TypeError:
        raise ValueError(f"the private key in {path} is encrypted: nobody can be asked for its password") from None
    except ValueError:
        raise ValueError(f"the private key in {path} can not be read") from None
