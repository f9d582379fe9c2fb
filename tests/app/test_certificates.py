"""What is wrong with a certificate is said once, with its setting and its file, by a check, a start and a reload."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_twisted
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet import reactor

from broker.app.certificates import CertificateReload, make_certificates
from broker.app.settings import read_settings
from broker.app.tap import make_daemon
from broker.app.verification import verify
from broker.config.environment import Environment
from broker.config.settings import SettingsError
from tests.support.eventually import eventually
from tests.web.net.test_certificates import ROOT

CERTIFICATE, KEY = "TXBROKER_TLS_CERTIFICATE_FILE", "TXBROKER_TLS_KEY_FILE"
NOW = datetime.now(UTC).replace(second=0, microsecond=0)
DAY = timedelta(days=1)
EXPIRED, FUTURE = (NOW - 2 * DAY, NOW - DAY), (NOW + DAY, NOW + 2 * DAY)
TIME = "%Y-%m-%d %H:%M UTC"


class Files:
    """Files of certificates, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.certificate, self.key = str(directory / "one.crt"), str(directory / "one.key")
        self.environ = {CERTIFICATE: self.certificate, KEY: self.key}

    def write(self, life: tuple[datetime, datetime] = (NOW - DAY, NOW + DAY), authority: trustme.CA = ROOT) -> None:
        issued = authority.issue_cert("localhost", not_before=life[0], not_after=life[1])
        self._write(b"".join(one.bytes() for one in issued.cert_chain_pems), issued.private_key_pem.bytes())

    def write_weak(self) -> None:
        key = rsa.generate_private_key(65537, 1024)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        made = x509.CertificateBuilder(name, name, key.public_key(), 5, NOW - DAY, NOW + DAY).sign(key, hashes.SHA256())
        self._write(
            made.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )

    def _write(self, certificates: bytes, key: bytes) -> None:
        Path(self.certificate).write_bytes(certificates)
        Path(self.key).touch(0o600)
        Path(self.key).write_bytes(key)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path)
    made.write()
    return made


def checked(**environ: str) -> tuple[list[str], list[str]]:
    """Return the problems and the warnings that ``txbroker check`` has."""
    settings, found = read_settings(Environment(environ))
    verified = verify(reactor, settings, found)
    return verified.problems, verified.warnings


def refused(**environ: str) -> list[str]:
    """Return why a daemon does not start."""
    settings, found = read_settings(Environment(environ))
    with pytest.raises(SettingsError) as caught:
        make_daemon(reactor, settings, problems=found)
    return caught.value.problems


def test_a_good_certificate_needs_no_word(files: Files) -> None:
    assert checked(**files.environ) == ([], [])


@pytest.mark.parametrize(
    ("life", "words"),
    [
        (EXPIRED, f"has expired at {EXPIRED[1]:{TIME}}: clients refuse it"),
        (FUTURE, f"is not valid before {FUTURE[0]:{TIME}}: clients refuse it until then"),
    ],
)
def test_a_certificate_is_warned_of_at_a_time_when_clients_refuse_it(
    files: Files, life: tuple[datetime, datetime], words: str
) -> None:
    files.write(life)
    assert checked(**files.environ) == ([], [f"{CERTIFICATE}: {files.certificate}: the certificate {words}"])
    endpoint = f"ssl:7001:privateKey={files.key}:certKey={files.certificate}:interface=127.0.0.1"
    of_endpoint = f"{files.certificate}: the certificate {words}"
    assert checked(TXBROKER_LISTEN=endpoint) == ([], [f"TXBROKER_LISTEN: {of_endpoint}"])
    assert checked(TXBROKER_ADMIN_LISTEN=endpoint) == ([], [f"TXBROKER_ADMIN_LISTEN: {of_endpoint}"])


def test_the_certificates_of_the_chain_are_looked_at_too(files: Files) -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an old issuer")])
    key = rsa.generate_private_key(65537, 2048)
    old = x509.CertificateBuilder(name, name, key.public_key(), 5, *EXPIRED).sign(key, hashes.SHA256())
    with open(files.certificate, "ab") as file:
        file.write(old.public_bytes(Encoding.PEM))
    ((), (warning,)) = map(tuple, checked(**files.environ))
    assert f"a certificate of its chain, 'an old issuer', has expired at {EXPIRED[1]:{TIME}}" in warning


def test_a_weak_key_is_told_as_that(files: Files) -> None:
    files.write_weak()
    problems, warnings = checked(**files.environ)
    # Whether it can be used is decided by the level of security that OpenSSL was built with.
    (told,) = problems + warnings
    assert told.startswith(f"{CERTIFICATE}: {files.certificate}: the key of the certificate is ")
    assert told.endswith("(RSA of 1024 bits, sha256)")
    if problems:
        assert refused(**files.environ) == problems


def test_the_key_of_another_certificate_is_told_once_with_its_setting(files: Files) -> None:
    ROOT.issue_cert("other").private_key_pem.write_to_path(files.key)
    told = [f"{KEY}: {files.key} is not the private key of {files.certificate}"]
    assert (checked(**files.environ), refused(**files.environ)) == ((told, []), told)


@pytest.mark.parametrize("missing", ["certificate", "key"])
def test_a_file_that_is_missing_is_told_once(files: Files, missing: str) -> None:
    path = getattr(files, missing)
    Path(path).unlink()
    setting = CERTIFICATE if missing == "certificate" else KEY
    told = [f"{setting}: {path} can not be read: No such file or directory"]
    assert (checked(**files.environ), refused(**files.environ)) == ((told, []), told)


def test_a_file_of_both_that_is_missing_is_told_once(files: Files) -> None:
    told = [f"{CERTIFICATE}: /nowhere/both.pem can not be read: No such file or directory"]
    assert (checked(**{CERTIFICATE: "/nowhere/both.pem"}), refused(**{CERTIFICATE: "/nowhere/both.pem"})) == (
        (told, []),
        told,
    )


def test_a_reload_says_the_same(files: Files) -> None:
    settings, _ = read_settings(Environment(files.environ))
    shared = make_certificates(settings)

    class Listening:
        certificates = (shared,)

    part = CertificateReload(shared, [Listening()])  # type: ignore[list-item]  # what it needs of a listener
    ROOT.issue_cert("other").private_key_pem.write_to_path(files.key)
    with pytest.raises(SettingsError) as caught:
        part.prepare(settings)
    assert caught.value.problems == [f"{KEY}: {files.key} is not the private key of {files.certificate}"]


@pytest.mark.processes
@pytest_twisted.ensureDeferred
async def test_a_start_and_a_reload_log_that_a_certificate_has_expired(files: Files, start_daemon) -> None:  # type: ignore[no-untyped-def]
    files.write(EXPIRED)
    daemon = await start_daemon(TXBROKER_PROTOCOLS="tests.support.waiter:Dialect", **files.environ)
    words = f"{files.certificate}: the certificate has expired at {EXPIRED[1]:{TIME}}: clients refuse it"

    def warned() -> list[str]:
        return [event["msg"] for event in daemon.events() if event["level"] == "warn"]

    assert warned() == [f"{CERTIFICATE}: {words}"]
    files.write(EXPIRED)  # another one
    daemon.program.signal(signal.SIGHUP)
    await eventually(lambda: len(warned()) == 2)
    assert warned() == [f"{CERTIFICATE}: {words}"] * 2
