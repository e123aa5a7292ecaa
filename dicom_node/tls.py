"""TLS for associations: the BCP 195 profile (PS3.15 B.12), mutual where configured."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicom_node.config import ServerTls, Tls
from dicom_node.errors import ConfigError

# BCP 195 (RFC 9325, 4.2): forward secrecy and authenticated encryption only, and no finite-field
# Diffie-Hellman (4.1). TLS 1.3 has no others.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

HANGS_UP = (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError)
"""TLS 1.3 (RFC 8446, 4.4.2.4): who refuses our certificate says so after the handshake, and may
have hung up before it is heard."""
_REFUSALS = ("certificate", "unknown ca", "handshake failure")
"""In the alert of a peer that wants another certificate than it got (RFC 8446, 6.2)."""
_OURS = "; see tls.certificate, which it has to trust"
_ITS = "; see tls.authority, and tls.host for the name in its certificate"


def server(settings: ServerTls) -> ssl.SSLContext:
    """For associations that others open; they need a certificate where an authority is named.

    Raises:
        ConfigError: a file cannot be read, or is no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if settings.authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return _filled(context, settings)


def client(settings: Tls) -> ssl.SSLContext:
    """For associations that we open; the peer's certificate is always verified.

    Raises:
        ConfigError: a file cannot be read, or is no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.authority is None:
        context.load_default_certs()
    return _filled(context, settings)


def reason(fault: OSError) -> str:
    """Why a handshake failed, in OpenSSL's words; nothing of the peer's certificate."""
    if isinstance(fault, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {fault.verify_message}"
    if isinstance(fault, TimeoutError):
        return "no handshake in time"
    if isinstance(fault, ssl.SSLError):
        return (fault.reason or "TLS failed").lower().replace("_", " ")
    return fault.strerror or type(fault).__name__


def refusal(fault: OSError) -> str:
    """Why a peer that we called and we do not trust each other, and which setting that is about."""
    if isinstance(fault, ssl.SSLCertVerificationError):
        return f"{reason(fault)}{_ITS}"
    if isinstance(fault, HANGS_UP):
        return f"it hangs up; if it wants a certificate{_OURS}"
    said = reason(fault)
    return f"{said}{_OURS if any(word in said for word in _REFUSALS) else ''}"


def _filled(context: ssl.SSLContext, settings: ServerTls | Tls) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    if settings.certificate is not None:
        with _named("certificate and key", settings.certificate, settings.key):
            context.load_cert_chain(settings.certificate, settings.key)
    if settings.authority is not None:
        with _named("authority", settings.authority):
            context.load_verify_locations(settings.authority)
    return context


@contextmanager
def _named(what: str, *files: str | None) -> Iterator[None]:
    """A fault says which file it is of, which OpenSSL does not."""
    names = [name for name in files if name]
    try:
        for name in names:
            Path(name).read_bytes()
        yield
    except OSError as fault:
        where = fault.filename or ", ".join(names)
        raise ConfigError(f"tls: {what}: {reason(fault)}: {where}") from fault
