"""HTTPS as associations are encrypted: by dicom_node.tls, and why it failed in words."""

import ssl
from collections.abc import Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from dicom_node import tls
from dicom_node.config import Tls


class Adapter(HTTPAdapter):
    """By our own context: the library's would add the public authorities to a hospital's own."""

    def __init__(self, settings: Tls | None) -> None:
        """For one server.

        Raises:
            ConfigError: a file cannot be read, or is no certificate or key.
        """
        self._settings = settings or Tls()
        self._context = tls.client(self._settings)
        super().__init__()

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


def why(fault: BaseException, *, encrypted: bool) -> str:
    """Why there was no answer: what TLS or the system said, else the library's name for it."""
    for cause in _causes(fault):
        if isinstance(cause, ssl.SSLError) or (encrypted and isinstance(cause, tls.HANGS_UP)):
            return tls.refusal(cause)
    return _plain(fault)


def _plain(fault: BaseException) -> str:
    """What has nothing to do with TLS."""
    if isinstance(fault, requests.ConnectTimeout):
        return "no connection in time"
    if isinstance(fault, requests.Timeout):
        return "it takes too long"
    for cause in _causes(fault):
        if isinstance(cause, OSError) and cause.strerror:
            return str(cause.strerror)
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
