"""The certificates that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.config.settings import Settings

if TYPE_CHECKING:
    from broker.web.net.certificates import CertificateFiles, ServerCertificates


def certificate_files(settings: Settings) -> list[CertificateFiles]:
    """Return the files that ``TXBROKER_TLS_CERTIFICATE_FILE`` and ``_KEY_FILE`` name."""
    from broker.web.net.certificates import CertificateFiles

    named = zip(settings.tls_certificate_file, settings.tls_key_file, strict=True)
    return [CertificateFiles(certificate, key) for certificate, key in named]


def make_certificates(settings: Settings) -> ServerCertificates | None:
    """Return the certificates of *settings*; None where there are none.

    Raises:
        ValueError: they can not be used; says which, and why.
    """
    if not settings.tls_certificate_file:
        return None
    # Imported here: the libraries of TLS are an extra, and take time and memory to load.
    try:
        from broker.web.net.certificates import ServerCertificates
    except ModuleNotFoundError as error:
        raise ValueError(f"TLS needs {error.name}: pip install txbroker[tls]") from None
    return ServerCertificates(certificate_files(settings))
