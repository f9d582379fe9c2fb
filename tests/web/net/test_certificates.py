"""TLS as clients meet it: what is negotiated, which certificate they get, and what is wrong with files."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from OpenSSL import SSL

from broker.web.net.certificates import CertificateFiles, ServerCertificates, TLSOptions
from broker.web.net.endpoints import parse_endpoint

ROOT = trustme.CA()
INTERMEDIATE = ROOT.create_child_ca()


def write(directory: Path, *names: str, name: str = "fullchain.pem") -> CertificateFiles:
    """Write a certificate for *names* as an ACME client does: its chain in one file, its key in another."""
    issued = INTERMEDIATE.issue_cert(*names)
    key, chain = directory / f"key-{name}", directory / name
    issued.private_key_pem.write_to_path(str(key))
    chain.write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
    return CertificateFiles(str(chain), str(key))


def pem_files(directory: Path) -> tuple[str, str, str]:
    """Return the paths of a certificate with its chain, of its key, and of both in one file, as HAProxy wants it."""
    files = write(directory, "localhost")
    both = directory / "both.pem"
    both.write_bytes(Path(files.certificate).read_bytes() + Path(files.key).read_bytes())
    return files.certificate, files.key, str(both)


def trusting(*offered: str) -> ssl.SSLContext:
    """Return the context of a client that knows the root alone, and offers protocols by ALPN."""
    context = ssl.create_default_context()
    ROOT.configure_trust(context)
    if offered:
        context.set_alpn_protocols(list(offered))
    return context


def shake(certificates: ServerCertificates, client: ssl.SSLContext, name: str = "localhost") -> ssl.SSLObject:
    """Return the client's end after the handshake, which fails as that of the client does."""
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    end = client.wrap_bio(received, sent, server_hostname=name)
    server = certificates.serverConnectionForTLS(None)
    server.set_accept_state()
    for _ in range(4):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
            return end
        server.bio_write(sent.read())
        with suppress(SSL.Error):
            server.do_handshake()
        with suppress(SSL.WantReadError):
            received.write(server.bio_read(65536))
    raise AssertionError("the handshake has no end")


def names_of(end: ssl.SSLObject) -> list[str]:
    certificate: Any = end.getpeercert()
    assert certificate is not None
    return [str(name) for _, name in certificate["subjectAltName"]]


@pytest.mark.parametrize(
    ("offered", "spoken"),
    [
        ((), None),
        (("http/1.1",), "http/1.1"),
        (("h2", "http/1.1"), "http/1.1"),
        (("http/1.0", "http/1.1"), "http/1.1"),
        (("http/1.0",), "http/1.0"),
        (("h2",), None),
        (("h3", "acme-tls/1"), None),
    ],
)
def test_whatever_a_client_offers_it_is_served(tmp_path: Path, offered: tuple[str, ...], spoken: str | None) -> None:
    certificates = ServerCertificates([write(tmp_path, "localhost")])
    assert shake(certificates, trusting(*offered)).selected_alpn_protocol() == spoken


def test_a_file_of_the_whole_chain_is_sent_whole(tmp_path: Path) -> None:
    assert names_of(shake(ServerCertificates([write(tmp_path, "localhost")]), trusting())) == ["localhost"]


@pytest.mark.parametrize("repeated", [False, True])
def test_the_chain_may_be_in_a_file_of_its_own(tmp_path: Path, repeated: bool) -> None:
    files = write(tmp_path, "localhost")
    text = Path(files.certificate).read_text()
    first, second = [part + "-----END CERTIFICATE-----\n" for part in text.split("-----END CERTIFICATE-----\n")[:2]]
    Path(files.certificate).write_text(first + second * repeated)
    (tmp_path / "chain.pem").write_text(second)
    both = CertificateFiles(files.certificate, files.key, str(tmp_path / "chain.pem"))
    assert names_of(shake(ServerCertificates([both]), trusting())) == ["localhost"]


def test_certificate_and_key_may_be_one_file_in_any_order(tmp_path: Path) -> None:
    files = write(tmp_path, "localhost")
    for parts in ((files.key, files.certificate), (files.certificate, files.key)):
        one = tmp_path / "one.pem"
        one.write_bytes(b"a comment\r\n".join(Path(path).read_bytes() for path in parts))
        assert shake(ServerCertificates([CertificateFiles(str(one), str(one))]), trusting("http/1.1"))


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("one.example", ["one.example"]),
        ("two.example", ["two.example", "*.two.example"]),
        ("WWW.two.example", ["two.example", "*.two.example"]),
        ("a.b.two.example", ["one.example"]),
        ("unknown.example", ["one.example"]),
    ],
)
def test_of_several_certificates_a_client_gets_that_of_the_name_it_asks_for(
    tmp_path: Path, asked: str, names: list[str]
) -> None:
    certificates = ServerCertificates(
        [write(tmp_path, "one.example", name="1"), write(tmp_path, "two.example", "*.two.example", name="2")]
    )
    client = trusting("h2", "http/1.1")
    client.check_hostname = False
    end = shake(certificates, client, asked)
    assert (names_of(end), end.selected_alpn_protocol()) == (names, "http/1.1")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_is_of_version_1_2_or_later(tmp_path: Path, version: ssl.TLSVersion) -> None:
    client = trusting()
    client.minimum_version = client.maximum_version = version
    assert shake(ServerCertificates([write(tmp_path, "localhost")]), client).version()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_older_versions_are_refused(tmp_path: Path) -> None:
    client = trusting()
    client.minimum_version, client.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        shake(ServerCertificates([write(tmp_path, "localhost")]), client)


def test_a_renewed_certificate_is_for_who_comes_then(tmp_path: Path) -> None:
    files = write(tmp_path, "localhost")
    certificates = ServerCertificates([files])
    assert not certificates.differs(certificates.load([files]))
    write(tmp_path, "localhost", "renewed.example")
    loaded = certificates.load([files])
    assert certificates.differs(loaded)
    assert names_of(shake(certificates, trusting())) == ["localhost"]
    certificates.use([files], loaded)
    assert names_of(shake(certificates, trusting())) == ["localhost", "renewed.example"]


def encrypted(files: CertificateFiles) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    Path(files.key).write_bytes(text)


SPOILT: dict[str, tuple[Callable[[CertificateFiles], object], str]] = {
    "there is no certificate": (lambda files: Path(files.certificate).unlink(), "fullchain.pem: No such file"),
    "there is no key": (lambda files: Path(files.key).unlink(), "key-fullchain.pem: No such file"),
    "an empty certificate": (lambda files: Path(files.certificate).write_text(""), "no certificate in PEM"),
    "a certificate of another form": (
        lambda files: Path(files.certificate).write_text(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        ),
        "a certificate that is no PEM",
    ),
    "an empty key": (lambda files: Path(files.key).write_text(""), "no private key in PEM"),
    "a key of another form": (
        lambda files: Path(files.key).write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        "can not be read",
    ),
    "an encrypted key": (encrypted, "is encrypted"),
    "the key of another": (
        lambda files: ROOT.issue_cert("x").private_key_pem.write_to_path(files.key),
        "is not the private key of",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_files_that_can_not_be_used_are_told(tmp_path: Path, what: str) -> None:
    files = write(tmp_path, "localhost")
    certificates = ServerCertificates([files])
    spoil, words = SPOILT[what]
    spoil(files)
    with pytest.raises(ValueError, match=words):
        certificates.load([files])
    assert names_of(shake(certificates, trusting())) == ["localhost"]  # what was in use still is


def test_everything_that_is_wrong_with_files_is_told_at_once(tmp_path: Path) -> None:
    first, second = write(tmp_path, "one.example", name="1"), write(tmp_path, "two.example", name="2")
    Path(first.certificate).write_text("")
    Path(first.key).unlink()
    encrypted(second)
    with pytest.raises(ValueError, match=r"no certificate in PEM.*key-1: No such file.*key-2 is encrypted"):
        ServerCertificates([attrs.evolve(first, chain=first.certificate), second])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (TLSOptions("NO_METHOD"), "NO_METHOD is none of TLS_METHOD"),
        (TLSOptions("TLSv1_1_METHOD"), "TLSv1_1_METHOD is none of .* 1.2 or later"),
        (TLSOptions(dh_parameters="/dev/null"), "has no parameters for Diffie-Hellman"),
    ],
)
def test_options_that_can_not_be_used_are_told(tmp_path: Path, options: TLSOptions, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ServerCertificates([write(tmp_path, "localhost")], options)


def test_an_endpoint_names_its_files(tmp_path: Path) -> None:
    files = write(tmp_path, "localhost")
    text = f"ssl:0:privateKey={files.key}:certKey={files.certificate}:sslmethod=TLS_METHOD:interface=127.0.0.1"
    parsed = parse_endpoint(None, text)
    assert parsed.certificates is not None
    assert parsed.certificates.files == (files,)
    assert names_of(shake(parsed.certificates, trusting())) == ["localhost"]
