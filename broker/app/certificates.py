"""The certificates that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from twisted.logger import Logger

from broker.config.changes import Change
from broker.config.files import unreadable
from broker.config.settings import Settings, SettingsError
from broker.core.clocks import MACHINE
from broker.web.net.endpoints import own_certificates
from broker.web.net.listening import Listener

if TYPE_CHECKING:
    from broker.web.net.certificates import CertificateError, CertificateFiles, Loaded, ServerCertificates

log = Logger()

CERTIFICATE = "TXBROKER_TLS_CERTIFICATE_FILE"


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
        SettingsError: they can not be used; says which, and why.
        ValueError: TLS is not installed.
    """
    if not settings.tls_certificate_file:
        return None
    # Imported here: the libraries of TLS are an extra, and take time and memory to load.
    try:
        from broker.web.net.certificates import CertificateError, ServerCertificates
    except ModuleNotFoundError as error:
        raise ValueError(f"TLS needs {error.name}: pip install txbroker[tls]") from None
    try:
        return ServerCertificates(certificate_files(settings))
    except CertificateError as error:
        raise _told(error, settings) from None


def _told(error: CertificateError, settings: Settings) -> SettingsError:
    """Return *error* with the settings that name the files, in the words in which ``Settings.problems`` tells of them.

    What both find is told once.
    """
    names = {"key": settings.key_variable}
    problems = []
    for fault in error.faults:
        words = fault.words
        if fault.unread:
            words = unreadable(fault.path) or f"{fault.path} can not be read: {fault.unread}"
        problems.append(f"{names.get(fault.role, CERTIFICATE)}: {words}")
    return SettingsError(list(dict.fromkeys(problems)))


def certificate_warnings(settings: Settings, shared: ServerCertificates | None) -> list[str]:
    """Return a sentence for each certificate that clients refuse now: of those that are *shared*, and of endpoints."""
    now, found = MACHINE.time(), []
    if shared is not None:
        found = [f"{CERTIFICATE}: {note}" for note in shared.notes(now)]
    for name, endpoint in settings.all_endpoints():
        own = own_certificates(endpoint)
        found += [] if own is None else [f"{name}: {note}" for note in own.notes(now)]
    return list(dict.fromkeys(found))


class CertificateReload:
    """Takes up certificates that were renewed, and other files of them: for connections that begin then.

    Args:
        shared: those of the settings; None: the endpoints of TCP are without TLS, which only a restart changes.
        listeners: have all that are in use.
        warns: whether it logs which of those taken up clients refuse; another process may do that.
    """

    def __init__(self, shared: ServerCertificates | None, listeners: Iterable[Listener], *, warns: bool = True) -> None:
        self.names = ("tls_certificate_file", "tls_key_file") if shared is not None else ()
        self._shared, self._warns = shared, warns
        self._listeners = tuple(listeners)

    def prepare(self, settings: Settings) -> Change | None:
        """See ``Reloadable.prepare``."""
        if self._shared is not None and not settings.tls_certificate_file:
            raise ValueError("TXBROKER_TLS_CERTIFICATE_FILE: the end of TLS needs a restart")
        changes: list[Callable[[], None]] = []
        told: dict[str, None] = {}
        for certificates in dict.fromkeys(one for listener in self._listeners for one in listener.certificates):
            files = certificate_files(settings) if certificates is self._shared else certificates.files
            loaded = self._load(certificates, files, settings)
            if not certificates.differs(loaded):
                continue
            changes.append(partial(certificates.use, files, loaded))
            told |= dict.fromkeys(one.certificate for one in files)
            if self._warns:
                changes.append(partial(self._warn, certificates))
        if not changes:
            return None
        return Change(f"certificates ({', '.join(told)})", lambda: _all_of(changes))

    def _load(self, certificates: ServerCertificates, files: Sequence[CertificateFiles], settings: Settings) -> Loaded:
        from broker.web.net.certificates import CertificateError

        try:
            return certificates.load(files)
        except CertificateError as error:
            if certificates is not self._shared:
                raise
            raise _told(error, settings) from None

    def _warn(self, certificates: ServerCertificates) -> None:
        """Log what clients will have against *certificates*, as a start does."""
        for note in certificates.notes(MACHINE.time()):
            log.warn("{warning}", warning=f"{CERTIFICATE}: {note}" if certificates is self._shared else note)


def _all_of(changes: Iterable[Callable[[], None]]) -> None:
    for change in changes:
        change()
