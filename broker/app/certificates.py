"""The certificates that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from broker.config.changes import Change
from broker.config.settings import Settings
from broker.web.net.listening import Listener

if TYPE_CHECKING:
    from broker.web.net.certificates import CertificateFiles, ServerCertificates


def certificate_files(settings: Settings) -> list[CertificateFiles]:
    """Return the files that ``TXBROKER_TLS_CERTIFICATE_FILE`` and ``_KEY_FILE`` name.

    Raises:
        ValueError: they do not name as many.
    """
    from broker.web.net.certificates import CertificateFiles

    if settings.unpaired_keys:
        raise ValueError(settings.unpaired_keys)
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


class CertificateReload:
    """Takes up certificates that were renewed, and other files of them: for connections that begin then.

    Args:
        shared: those of the settings; None: the endpoints of TCP are without TLS, which only a restart changes.
        listeners: have all that are in use.
    """

    def __init__(self, shared: ServerCertificates | None, listeners: Iterable[Listener]) -> None:
        self.names = ("tls_certificate_file", "tls_key_file") if shared is not None else ()
        self._shared = shared
        self._listeners = tuple(listeners)

    def prepare(self, settings: Settings) -> Change | None:
        """See ``Reloadable.prepare``."""
        if self._shared is not None and not settings.tls_certificate_file:
            raise ValueError("TXBROKER_TLS_CERTIFICATE_FILE: the end of TLS needs a restart")
        changes: list[Callable[[], None]] = []
        told: dict[str, None] = {}
        for certificates in dict.fromkeys(one for listener in self._listeners for one in listener.certificates):
            files = certificate_files(settings) if certificates is self._shared else certificates.files
            loaded = certificates.load(files)
            if not certificates.differs(loaded):
                continue
            changes.append(partial(certificates.use, files, loaded))
            told |= dict.fromkeys(one.certificate for one in files)
        if not changes:
            return None
        return Change(f"certificates ({', '.join(told)})", lambda: _all_of(changes))


def _all_of(changes: Iterable[Callable[[], None]]) -> None:
    for change in changes:
        change()
