"""HTTP that waits no longer than it says; encrypted by dicom_node.tls, as associations are.

And why it failed, in words.
"""

import errno
import http.client
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from dicom_node import tls
from dicom_node.config import Tls


class HastyAdapter(HTTPAdapter):
    """Each piece of a request has to be taken in time as a whole, and the head of its answer given.

    The libraries' time-out is of each read, and a server may send a byte now and then for ever; of
    what is sent it is that of connecting, which a long result on a slow line takes longer than.
    """

    def __init__(self, response_s: float) -> None:
        """For servers that have so long to take a piece, and to answer."""
        self._response_s = response_s
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Connections are of our kind."""
        super().init_poolmanager(*args, **kwargs)
        pools: dict[str, Any] = {
            "http": partial(_Pool, response_s=self._response_s),
            "https": partial(_EncryptedPool, response_s=self._response_s),
        }
        self.poolmanager.pool_classes_by_scheme = pools


@contextmanager
def _cut_off(connection: socket.socket | None, within_s: float) -> Iterator[None]:
    """The connection is shut down after that time, which ends any wait for it.

    Raises:
        TimeoutError: it was.
    """
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _shut(connection)

    timer = threading.Timer(within_s, expire)
    timer.daemon = True
    timer.start()
    fault: Exception | None = None
    try:
        yield
    except Exception as error:
        fault = error
        raise
    finally:
        timer.cancel()
        if expired.is_set():  # cut off, a head may look whole
            raise TimeoutError("it does not end") from fault


def _shut(connection: socket.socket | None) -> None:
    """Nothing is waited for any more; what had come can be read still."""
    if connection is not None:
        with suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not TLS's: it is being read


class _Response(http.client.HTTPResponse):
    """The final one: Python 3.11 skips 100 alone of those that come before it."""

    def _read_status(self) -> tuple[str, int, str]:
        """An interim one (RFC 9110, 15.2) is taken for 100, which is skipped with its headers.

        Raises:
            http.client.HTTPException: it is none, or of another protocol (101), for which nobody
                has asked.
        """
        version, status, reason = super()._read_status()  # type: ignore[misc]
        if status == HTTPStatus.SWITCHING_PROTOCOLS:
            raise http.client.BadStatusLine(f"{status}")
        return version, HTTPStatus.CONTINUE if status < HTTPStatus.OK else status, reason


class _Connection(HTTPConnection):
    response_class = _Response

    def __init__(self, *args: Any, response_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._response_s = response_s
        self._not_taken: TimeoutError | None = None

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self._response_s)  # until now that of connecting

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        try:
            with _cut_off(self.sock, self._response_s):
                super().send(data)
        except TimeoutError as fault:
            # A server may answer before it has all, and read no more, nor close: urllib3 listens.
            _shut(self.sock)
            self._not_taken = fault
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from fault
        except ssl.SSLEOFError as fault:
            # As without TLS: a server may answer, and close, before it has all; urllib3 listens.
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from fault

    def getresponse(self) -> Any:
        within = partial(_cut_off, self.sock, self._response_s)
        try:
            with within():
                answer = super().getresponse()
        except Exception as fault:
            if self._not_taken is not None:  # and no answer had come
                raise self._not_taken from fault
            raise
        answer.in_time = within  # type: ignore[attr-defined]  # for who reads its body
        return answer


class _EncryptedConnection(_Connection, HTTPSConnection):
    """The same by TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _EncryptedPool(HTTPSConnectionPool):
    ConnectionCls = _EncryptedConnection


class Adapter(HastyAdapter):
    """By our own context: the library's would add the public authorities to a hospital's own."""

    def __init__(self, settings: Tls | None, response_s: float) -> None:
        """For one server; see HastyAdapter.

        Raises:
            ConfigError: a file cannot be read, or is no certificate or key.
        """
        self._settings = settings or Tls()
        self._context = tls.client(self._settings)
        super().__init__(response_s)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Connections have our context, and the name that the server's certificate must bear."""
        kwargs["ssl_context"] = self._context
        if self._settings.host:
            kwargs["server_hostname"] = self._settings.host
        super().init_poolmanager(*args, **kwargs)

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        """Of the request its host alone: what is verified is said above."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {}

    def cert_verify(self, *_: Any) -> None:
        """By our context."""


class TooLargeError(requests.RequestException):
    """An answer has more than what was asked for can take."""


def why(fault: BaseException, *, encrypted: bool) -> str:
    """Why there was no answer: what TLS or the system said, else the library's name for it."""
    for cause in _causes(fault):
        if isinstance(cause, TimeoutError):  # that we cut it off is no refusal
            break
        if isinstance(cause, ssl.SSLError) or (encrypted and isinstance(cause, tls.HANGS_UP)):
            return tls.refusal(cause)
    return _plain(fault)


def _plain(fault: BaseException) -> str:
    """What has nothing to do with TLS."""
    if isinstance(fault, TooLargeError):
        return "its answer is too large"
    if isinstance(fault, requests.ConnectTimeout):
        return "no connection in time"
    if isinstance(fault, requests.Timeout):
        return "it takes too long"
    for cause in _causes(fault):
        if isinstance(cause, OSError) and cause.strerror:
            return str(cause.strerror)
        if isinstance(cause, TimeoutError):
            return "it takes too long"
        if isinstance(cause, ConnectionError):
            return "it hangs up"
    return type(fault).__name__


def _causes(fault: BaseException | None) -> Iterator[BaseException]:
    """The error, and whatever it was raised from or wraps, as requests and urllib3 do."""
    waiting, seen = [fault], set()
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]
