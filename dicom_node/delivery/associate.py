"""An association with a destination, bounded in time, and in words why there is none."""

import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from pynetdicom import AE, evt
from pynetdicom.presentation import PresentationContext

from dicom_node import tls, wire
from dicom_node.config import DeliveryTimeouts, Destination
from dicom_node.delivery import outcome
from dicom_node.delivery.exchange import Exchange
from dicom_node.errors import ConfigError

_log = structlog.get_logger()


@contextmanager
def opened(
    ae: AE,
    destination: Destination,
    timeouts: DeliveryTimeouts,
    contexts: Sequence[PresentationContext],
    handlers: Sequence[tuple[Any, Any]] = (),
) -> Iterator[tuple[Any, str]]:
    """The association and no words, or None and why; released in the end."""
    try:
        assoc = request(ae, destination, timeouts, contexts, handlers)
    except (OSError, ConfigError) as error:
        yield None, why_not(error)
        return
    try:
        if assoc.is_established:
            yield assoc, ""
        else:
            yield None, _why_not(assoc)
    finally:
        if assoc.is_established:
            let_go(assoc)


def let_go(assoc: Any) -> None:
    """It is released, or cut off where even that fails: what was answered before still counts."""
    try:
        assoc.release()
    except Exception:  # noqa: BLE001 - whatever keeps it from being released
        assoc.abort()  # before a word, which may want what is wanting
        _log.exception("association not released")


def request(
    ae: AE,
    destination: Destination,
    timeouts: DeliveryTimeouts,
    contexts: Sequence[PresentationContext],
    handlers: Sequence[tuple[Any, Any]] = (),
) -> Any:
    """The association, established or not.

    Raises:
        OSError: the host's name has no address, one side refuses the other's certificate or TLS, or
            it takes no PDU that could hold anything.
        ConfigError: our certificate, key or authority for it cannot be read.
        RuntimeError, MemoryError: the system gives no thread or no memory; nothing is left open.
    """
    ae.connection_timeout = timeouts.connect_s
    ae.acse_timeout = timeouts.association_s
    ae.dimse_timeout = ae.network_timeout = timeouts.response_s

    begun: list[Any] = []

    def on_open(event: Any) -> None:
        begun.append(event.assoc)
        # pynetdicom sends without a time-out: a peer that stops reading would hold us for ever;
        # and it reads a PDU for as long as a byte comes now and then, and of any length
        event.assoc.dul.socket.socket.settimeout(timeouts.response_s)
        Exchange(event.assoc, destination.ae_title, timeouts.response_s)

    faults: list[OSError] = []
    try:
        assoc = ae.associate(
            destination.host,
            destination.port,
            list(contexts),
            destination.ae_title,
            evt_handlers=[(evt.EVT_CONN_OPEN, on_open), *handlers],
            tls_args=_tls_of(destination, faults.append),
        )
    except Exception:
        for unfinished in begun:  # its other thread would keep the connection open for ever
            unfinished.abort()
        raise
    if faults and not assoc.is_established and assoc.acceptor.primitive is None:
        raise ConnectionError(tls.refusal(faults[0])) from faults[0]
    if assoc.is_established and (fault := _too_short(assoc.acceptor.maximum_length)):
        assoc.abort()
        raise ConnectionError(fault)
    return assoc


def _too_short(most_bytes: int | None) -> str:
    """Why nothing can be sent in PDUs of at most so many bytes; "" where it can. 0 is no limit.

    PS3.8 D.1: how long the list of PDVs of a P-DATA-TF PDU may be, with the header of each.
    """
    if most_bytes is None:
        return "it states no maximum PDU length"
    if 0 < most_bytes <= wire.PDV_HEADER_BYTES:
        return f"its maximum PDU length, {most_bytes}, leaves no room for data"
    return ""


def _tls_of(
    destination: Destination, note: Callable[[OSError], None]
) -> tuple[ssl.SSLContext, str] | None:
    """What pynetdicom wants: the context, and the name that the peer's certificate must bear."""
    if destination.tls is None:
        return None
    context = tls.client(destination.tls)
    context.sslsocket_class = _telling(note)
    return context, destination.tls.host or destination.host


def _telling(note: Callable[[OSError], None]) -> type[ssl.SSLSocket]:
    """A socket that says why TLS failed: pynetdicom keeps that to itself."""

    class Telling(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            with _noted(note, OSError):
                super().do_handshake(block)

        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            # TLS 1.3: who refuses our certificate says so after the handshake (RFC 8446, 4.4.2.4)
            with _noted(note, ssl.SSLError, ConnectionError):
                return super().recv(buflen, flags)

    return Telling


@contextmanager
def _noted(note: Callable[[OSError], None], *kinds: type[OSError]) -> Iterator[None]:
    try:
        yield
    except kinds as fault:
        note(fault)
        raise


def why_not(fault: OSError | ConfigError) -> str:
    """Why nothing was sent at all, in words."""
    if isinstance(fault, ConfigError):
        return str(fault)
    return f"cannot connect: {fault.strerror or fault}"


def _why_not(assoc: Any) -> str:
    answer = assoc.acceptor.primitive
    if assoc.is_rejected:
        said = outcome.of_rejection(answer.result, answer.result_source, answer.diagnostic)
        return said.reason
    if answer is not None and answer.result == 0 and not assoc.accepted_contexts:
        return "it does not offer this service"
    return "cannot connect, or no answer to the association request"
