"""Who may associate: the calling AE title and address, against the configured senders."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from dicom_node import config


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """How an association is rejected (PS3.8 table 9-21) and what the log says."""

    result: int
    source: int
    diagnostic: int
    reason: str

    @property
    def pdu(self) -> bytes:
        """A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
        return bytes((3, 0, 0, 0, 0, 4, 0, self.result, self.source, self.diagnostic))


CALLING_AE_NOT_RECOGNISED = Rejection(
    result=1, source=1, diagnostic=3, reason="calling AE title not recognised"
)
CALLED_AE_NOT_RECOGNISED = Rejection(
    result=1, source=1, diagnostic=7, reason="called AE title not recognised"
)
TEMPORARY_CONGESTION = Rejection(result=2, source=3, diagnostic=1, reason="stopping")
UNJUDGED = Rejection(result=2, source=3, diagnostic=1, reason="could not be judged, see above")
OUT_OF_SPACE = Rejection(result=2, source=3, diagnostic=1, reason="the node is full for now")
LOCAL_LIMIT_EXCEEDED = Rejection(result=2, source=3, diagnostic=2, reason="too many associations")


class Senders:
    """The application entities that may send."""

    def __init__(self, senders: Sequence[config.Sender]) -> None:
        self._allowed = tuple(map(_allowed, senders))

    def allow(self, ae_title: str, address: str) -> bool:
        """Whether an AE of this title at this address is one of them."""
        return any(sender.is_meant(ae_title, address) for sender in self._allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Allowed:
    """A sender of the configuration, ready to compare with."""

    ae_title: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None

    def is_meant(self, ae_title: str, address: str) -> bool:
        """Whether this AE at this address is the one meant."""
        if self.ae_title not in (config.ANY, ae_title):
            return False
        return self.network is None or _unmapped(address) in self.network


def _allowed(sender: config.Sender) -> _Allowed:
    network = None if sender.host == config.ANY else ipaddress.ip_network(sender.host)
    return _Allowed(ae_title=sender.ae_title, network=network)


def _unmapped(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that a socket for both families shows as ::ffff:10.0.0.5."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip
