"""The Storage SCU: one association a batch, kept files sent as they are."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.presentation import PresentationContext

from dicom_node.config import DeliveryTimeouts, Destination
from dicom_node.delivery import associate, outcome
from dicom_node.delivery.outcome import Beginning, Fate, Outcome, nobody
from dicom_node.delivery.query import Finder
from dicom_node.errors import ConfigError
from dicom_node.status import ECHO_SUCCESS
from pipeline import shortage

_log = structlog.get_logger()

# Files are then sent by pieces as they lie there; otherwise they are parsed and encoded anew.
_config.STORE_SEND_CHUNKED_DATASET = True
_config.LOG_HANDLER_LEVEL = "none"

_MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers of one byte
_MOST_MESSAGE_IDS = 65535  # PS3.7 9.1.1.1.1, VR US


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What a presentation context is for."""

    sop_class_uid: str
    transfer_syntax_uid: str


_VERIFICATION = "1.2.840.10008.1.1"  # PS3.4 A.4
_ECHO = _Kind(sop_class_uid=_VERIFICATION, transfer_syntax_uid="")
_THERE = {ECHO_SUCCESS, 0x0122, 0x0211}  # PS3.7 annex C: SOP class, operation not known


class Scu:
    """Sends batches of results to destinations; safe to call from several threads."""

    def __init__(
        self, *, ae_title: str, implementation_class_uid: str, timeouts: DeliveryTimeouts
    ) -> None:
        self._ae_title, self._implementation = ae_title, implementation_class_uid
        self._timeouts = timeouts

    def send(
        self,
        destination: Destination,
        files: Sequence[Path],
        within_s: float,
        beginning: Beginning = nobody,
    ) -> list[Outcome]:
        """What became of each kept Part 10 file, in their order; none is begun after `within_s`."""
        kinds = [_kind(file) for file in files]
        contexts = _contexts([kind for kind in kinds if isinstance(kind, _Kind)])
        if not contexts:
            return [kind for kind in kinds if isinstance(kind, Outcome)]
        until = time.monotonic() + within_s
        connected: list[Any] = []
        try:
            assoc = self._associate(destination, contexts, connected)
        except OSError as error:  # the host's name has no address, or we lack a file handle
            said = outcome.unforeseen(error) if shortage.lacking(error) else None
            away = Outcome(fate=Fate.POSTPONED, reason=associate.why_not(error))
            return [said or away for _ in files]
        except ConfigError as error:
            return [Outcome(fate=Fate.POSTPONED_SLOWLY, reason=str(error)) for _ in files]
        if not assoc.is_established:
            return [_not_established(assoc, kind, bool(connected)) for kind in kinds]
        try:
            return self._send_all(assoc, files, kinds, until, beginning)
        finally:
            associate.let_go(assoc)

    def finder(self) -> Finder:
        """Who asks in our name what a destination holds."""
        return Finder(ae_title=self._ae_title, timeouts=self._timeouts)

    def echo(self, destination: Destination) -> str:
        """Why the destination does not answer C-ECHO (PS3.7 9.1.5); empty where it does.

        One that takes the association but offers no Verification, or does not know it, is there.
        """
        contexts = [build_context(_VERIFICATION)]
        try:
            assoc = self._associate(destination, contexts, [])
        except (OSError, ConfigError) as error:
            return associate.why_not(error)
        if not assoc.is_established:
            answer = assoc.acceptor.primitive
            there = answer is not None and answer.result == 0
            return "" if there else _not_established(assoc, _ECHO, connected=False).reason
        try:
            status = assoc.send_c_echo().get("Status")
        except (RuntimeError, ValueError):
            status = None
        finally:
            associate.let_go(assoc)
        return "" if status in _THERE else "C-ECHO is not answered with success"

    def _associate(
        self, destination: Destination, contexts: list[PresentationContext], connected: list[Any]
    ) -> Any:
        ae = AE(ae_title=self._ae_title)
        ae.implementation_class_uid = self._implementation
        handlers = [(evt.EVT_CONN_OPEN, connected.append)]
        return associate.request(ae, destination, self._timeouts, contexts, handlers)

    def _send_all(
        self,
        assoc: Any,
        files: Sequence[Path],
        kinds: Sequence[_Kind | Outcome],
        until: float,
        beginning: Beginning,
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for file, kind in zip(files, kinds, strict=True):
            if isinstance(kind, Outcome):
                outcomes.append(kind)
            elif _NO_ANSWER in outcomes or not assoc.is_established or time.monotonic() > until:
                # pynetdicom notes an abort a moment late, and would then wait for an answer
                outcomes.append(_UNSENT)
            elif not beginning():
                outcomes.append(_UNSENT)
            else:
                message_id = len(outcomes) % _MOST_MESSAGE_IDS + 1
                outcomes.append(_send(assoc, file, kind, message_id))
        return outcomes if assoc.is_established else _of_an_end(outcomes)


_UNREADABLE = Outcome(fate=Fate.REFUSED, reason="the kept file is no DICOM file any more")
# Too many open files, a disk in trouble: the moment's, which says nothing of the file.
_NOT_READ = Outcome(fate=Fate.POSTPONED, reason="the kept file cannot be read now", status="FILE")
# Whether it was stored nobody knows; sent again it is the same object.
_NO_ANSWER = Outcome(fate=Fate.POSTPONED, reason="no answer: the association ended or timed out")
_UNSENT = Outcome(fate=Fate.UNSENT, reason="the association ended before its turn")
_ENDED = Outcome(fate=Fate.POSTPONED, reason="the association ended before anything was sent")


def _of_an_end(outcomes: list[Outcome]) -> list[Outcome]:
    """One of a batch has failed where its association ended before any was begun.

    Else nothing would count the attempt, and it would be made again at once, for ever.
    """
    if _UNSENT not in outcomes or any(one.fate in _BEGUN for one in outcomes):
        return outcomes
    first = outcomes.index(_UNSENT)
    return [*outcomes[:first], _ENDED, *outcomes[first + 1 :]]


_BEGUN = {Fate.DELIVERED, Fate.POSTPONED, Fate.POSTPONED_SLOWLY}


def _send(assoc: Any, file: Path, kind: _Kind, message_id: int) -> Outcome:
    if not _is_accepted(assoc, kind):
        return _not_taken(kind)
    begun: list[Any] = []
    assoc.bind(evt.EVT_DIMSE_SENT, begun.append)
    try:
        answer = assoc.send_c_store(file, message_id)
    except RuntimeError:  # the association ended between our look and the call
        return _UNSENT
    except Exception as fault:  # noqa: BLE001 - its own only: others of its batch have their answer
        if begun:  # what follows would be taken for the rest of it, under its UID
            assoc.abort()
        return _unsendable(fault)
    finally:
        assoc.unbind(evt.EVT_DIMSE_SENT, begun.append)
    if "Status" not in answer:
        return _NO_ANSWER
    return outcome.of_status(answer.Status, str(answer.get("ErrorComment", "") or ""))


def _unsendable(fault: Exception) -> Outcome:
    match fault:
        case OSError():
            return _NOT_READ
        case ValueError() | AttributeError():
            return _UNREADABLE
    _log.exception("sending failed")
    return outcome.unforeseen(fault)


def _kind(path: Path) -> _Kind | Outcome:
    """The file's class and transfer syntax, or what becomes of one that has none or is not read."""
    try:
        meta = read_file_meta_info(path)
        return _Kind(
            sop_class_uid=str(meta.MediaStorageSOPClassUID),
            transfer_syntax_uid=str(meta.TransferSyntaxUID),
        )
    except (InvalidDicomError, AttributeError, EOFError):
        return _UNREADABLE
    except OSError:
        return _NOT_READ


def _contexts(kinds: Sequence[_Kind]) -> list[PresentationContext]:
    """One context a kind, so that the destination cannot choose a syntax we do not have."""
    different = list(dict.fromkeys(kinds))
    return [
        build_context(kind.sop_class_uid, kind.transfer_syntax_uid)
        for kind in different[:_MOST_CONTEXTS]
    ]


def _is_accepted(assoc: Any, kind: _Kind) -> bool:
    return any(
        context.abstract_syntax == kind.sop_class_uid
        and context.transfer_syntax == [kind.transfer_syntax_uid]
        for context in assoc.accepted_contexts
    )


def _not_taken(kind: _Kind) -> Outcome:
    reason = f"SOP class {kind.sop_class_uid} in {kind.transfer_syntax_uid} is not accepted"
    return Outcome(fate=Fate.REFUSED, reason=reason)


def _not_established(assoc: Any, kind: _Kind | Outcome, connected: bool) -> Outcome:
    """Why there is no association, for a file of this kind."""
    if isinstance(kind, Outcome):
        return kind
    answer = assoc.acceptor.primitive
    if assoc.is_rejected:
        return outcome.of_rejection(answer.result, answer.result_source, answer.diagnostic)
    if answer is not None and answer.result == 0 and not assoc.accepted_contexts:
        return _not_taken(kind)
    reason = "no answer to the association request" if connected else "cannot connect"
    return Outcome(fate=Fate.POSTPONED, reason=reason)
