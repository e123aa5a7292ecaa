"""Films decoded in a disposable process, so that a codec that crashes takes no worker with it."""

import errno
import math
import mmap
import multiprocessing
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np

from dicom_node import attributes, radiograph
from dicom_node.errors import CodecError, DecoderError, InputError, NodeError
from dicom_node.radiograph import Film
from pipeline import shortage
from pipeline.types import Image

Reader = Callable[[Path], Film]

BROKE = "decoder broke"
"""How the line of a child begins that a fault of ours has ended."""
_START_S = 60.0
"""To start an interpreter and import numpy, pydicom and the codecs on a busy machine."""
_FAREWELL_S = 1.0
_UNSAID = 75
"""The exit code of a child that could not say what it read: EX_TEMPFAIL of sysexits(3)."""
_NOT_BY_CODECS = (-signal.SIGKILL, -signal.SIGXCPU)
"""They do not kill themselves: the kernel does, out of memory, or of the time that it may use."""
_PROCESSORS = os.cpu_count() or 1
_SPARE_S = 5
_MAPPED = Path("/proc/self/statm")
_MOST_ASKED_BYTES = 1 << 30
"""Of the machine, to tell whether it has memory for a codec: more than most films take, and no more
than a small machine has, where no film would ever be refused else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoded:
    """A film whose pixels, [rows, cols] float32 of this shape, follow as raw bytes."""

    film: Film
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A film to be read; `with_memory`: only where there is memory for a codec."""

    path: Path
    with_memory: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refused:
    """The image's fault, in words; `spent` where the process should not be used again.

    `by_codec`: its codec gave up, see `CodecError`.
    """

    reason: str
    spent: bool = False
    by_codec: bool = False


_Answer = _Decoded | _Refused | OSError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """The memory that a film is to have, and whether a limit from outside leaves it less."""

    wanted_bytes: int
    is_cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Child:
    process: SpawnProcess
    connection: Connection


class Decoder:
    """Reads films in a child process that is kept while it is well, and replaced when it is not.

    Args:
        timeout_s: longest time for one film, after which its process is killed.
        memory_bytes: address space for one film, beyond what the idle process has mapped.
        reader: what the child calls; it must be importable there.
    """

    def __init__(
        self, timeout_s: float, memory_bytes: int, reader: Reader = radiograph.read
    ) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._reader = reader
        self._child: _Child | None = None
        self._lock = threading.Lock()

    def read(self, path: Path) -> Film:
        """As `radiograph.read`; one film at a time, callers wait for each other.

        Raises:
            InputError: the film cannot be analysed, or its decoding crashed, twice, or took too
                much memory.
            DecoderError: the child was killed, as by a machine without memory, or took too long,
                as on a machine with too much to do; or it is the film all the same.
            OSError: the file cannot be opened, the machine lacks memory or handles, or the child
                process cannot be started, or was asked to stop: not the image's fault.
            RuntimeError: the system gives no thread, as `shortage.lacking` tells.
        """
        with self._lock:
            return self._read(path)

    def close(self) -> None:
        """The child process has ended; a later `read` would start another."""
        with self._lock:
            self._discard()

    def _read(self, path: Path) -> Film:
        """A codec has no word for a want of memory: what it said is true if it says it twice.

        The second time in a new process, to which the machine gives memory.
        """
        try:
            return self._ask(_Asked(path=path, with_memory=False))
        except CodecError:
            self._discard()
            return self._ask(_Asked(path=path, with_memory=True))

    def _ask(self, asked: _Asked) -> Film:
        child, clean = self._living_child(), False
        try:
            with _deadline(child.process, self._timeout_s) as expired:
                answer = _exchange(child.connection, asked)
            clean = not expired.is_set() and not (isinstance(answer, _Refused) and answer.spent)
        except (EOFError, ConnectionError) as error:
            self._discard()
            raise self._death(child.process, expired.is_set()) from error
        finally:
            if not clean:  # an answer left in the pipe must never meet the next patient's film
                self._discard()
        return _film(answer)

    def _living_child(self) -> _Child:
        """The kept child, unless it died in between (the system's out-of-memory killer)."""
        if self._child is not None and not self._child.process.is_alive():
            self._discard()
        return self._child or self._start()

    def _start(self) -> _Child:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve,
            args=(theirs, self._reader, self._memory_bytes, self._timeout_s),
            daemon=True,
        )
        process.start()
        theirs.close()  # else the child's end would stay open here and its death go unseen
        child, greeted = _Child(process=process, connection=ours), False
        try:
            with _deadline(process, _START_S):
                ours.recv()
            greeted = True
        except (EOFError, ConnectionError) as error:
            raise ChildProcessError("The decoder process does not start.") from error
        finally:
            if not greeted:  # its greeting would be taken for an answer, each answer for the next
                _end(child)
        self._child = child
        return child

    def _discard(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            _end(child)

    def _death(self, process: SpawnProcess, expired: bool) -> NodeError | ChildProcessError:
        """Why the process ended: by the image's fault, unless it was ended from outside."""
        if expired:
            return DecoderError(f"Decoding took longer than {self._timeout_s:g} s.")
        code = process.exitcode
        if code == -signal.SIGTERM:  # a service manager stops the whole group, children too
            return ChildProcessError("The decoder process was asked to stop.")
        if code == _UNSAID:
            return ChildProcessError("The decoder process could not say what it read.")
        if code in _NOT_BY_CODECS:
            name = signal.Signals(-code).name
            return DecoderError(f"The decoder process was killed by {name}.")
        if code is not None and code < 0:
            return CodecError(f"The decoder process was killed by {signal.Signals(-code).name}.")
        return CodecError(f"The decoder process failed with exit code {code}.")


def _end(child: _Child) -> None:
    child.connection.close()
    child.process.join(_FAREWELL_S)
    child.process.kill()
    child.process.join()


@contextmanager
def _deadline(process: SpawnProcess, limit_s: float) -> Iterator[threading.Event]:
    """Kills the process after `limit_s`, which ends any wait for it; the event tells."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        process.kill()

    timer = threading.Timer(limit_s, expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
        timer.join()


def _exchange(connection: Connection, asked: _Asked) -> _Answer:
    """The child's whole answer to one film."""
    connection.send(asked)
    answer: _Answer = connection.recv()
    if not isinstance(answer, _Decoded):
        return answer
    pixels = np.empty(answer.shape, np.float32)
    connection.recv_bytes_into(pixels.data.cast("B"))
    return replace(answer, film=_with_pixels(answer.film, pixels))


def _film(answer: _Answer) -> Film:
    match answer:
        case _Decoded():
            return answer.film
        case _Refused():
            raise (CodecError if answer.by_codec else InputError)(answer.reason)
        case OSError():
            raise answer


def _with_pixels(film: Film, pixels: Image) -> Film:
    return replace(film, radiograph=replace(film.radiograph, pixels=pixels))


def _serve(connection: Connection, reader: Reader, memory_bytes: int, timeout_s: float) -> None:
    """The child's life: films asked for, answers out, until the parent hangs up.

    An error that is not foreseen ends it, and where it was is told, not its words, which may quote
    the film's; the parent then says so.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    attributes.keep_warnings_quiet()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    share = _limit(memory_bytes)
    connection.send(None)
    while True:
        try:
            asked = connection.recv()
        except (EOFError, ConnectionError):
            return
        _bound_processor_time(timeout_s)
        try:
            _answer(connection, reader, asked, share)
        except (OSError, MemoryError):  # of the machine's: the film's own are what is said
            os._exit(_UNSAID)
        except Exception as error:  # noqa: BLE001 - whatever a codec or a reader of ours raises
            sys.stderr.write(f"{BROKE}: {type(error).__qualname__}\n")
            traceback.print_tb(error.__traceback__)
            sys.exit(1)


def _end_with_parent() -> None:
    """A worker that is killed leaves nobody behind who reads a film for it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _bound_processor_time(timeout_s: float) -> None:
    """For one more film; a codec that never lets another thread run ends by it, if alone.

    The parent's time-out comes first, and kills it.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    most_s = math.ceil(usage.ru_utime + usage.ru_stime + _PROCESSORS * timeout_s + _SPARE_S)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]  # of a service manager's, perhaps
    most_s = most_s if hard == resource.RLIM_INFINITY else min(most_s, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (most_s, hard))


def _answer(connection: Connection, reader: Reader, asked: _Asked, share: _Share) -> None:
    """What fails while it is said ends the process: the rest would be taken for the film's."""
    said, pixels = _said(reader, asked, share) or (_without_memory(share), None)
    connection.send(said)
    if pixels is not None:
        connection.send_bytes(pixels.data.cast("B"))


def _said(reader: Reader, asked: _Asked, share: _Share) -> tuple[_Answer, Image | None] | None:
    """The answer, and the pixels that follow it; None where memory was wanting.

    What the film had taken of that is free then.
    """
    try:
        if asked.with_memory:
            _demand_memory(min(share.wanted_bytes // 2, _MOST_ASKED_BYTES))
        film = reader(asked.path)
        pixels = np.ascontiguousarray(film.radiograph.pixels, np.float32)
        shape = (pixels.shape[0], pixels.shape[1])
        return _Decoded(film=_with_pixels(film, pixels[:0, :0]), shape=shape), pixels
    except InputError as error:
        return _Refused(reason=str(error), by_codec=isinstance(error, CodecError)), None
    except OSError as error:
        return error, None
    except MemoryError:
        return None
    except Exception as error:
        if not (wanting := shortage.lacking(error)):
            raise
        return OSError(wanting), None


def _without_memory(share: _Share) -> _Refused | OSError:
    """It is the film that needs too much, unless the machine has not what the film may take."""
    if share.is_cut:
        said = "the process has less memory than work.decode_memory_mb (ulimit -v, LimitAS)"
        return OSError(errno.ENOMEM, f"{os.strerror(errno.ENOMEM)}: {said}")
    try:
        _demand_memory(_left_bytes())
    except OSError as error:
        return error
    reason = f"Decoding needs more than {share.wanted_bytes >> 20} MiB of memory."
    return _Refused(reason=reason, spent=True)


def _demand_memory(nr_bytes: int) -> None:
    """The machine would give so much now.

    Raises:
        OSError: it would not (ENOMEM, as of libc's and numpy's own requests).
    """
    mmap.mmap(-1, max(1, nr_bytes)).close()


def _left_bytes() -> int:
    """Of the film's share, while nothing of it is taken; all where it is not bounded."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    return _MOST_ASKED_BYTES if limit == resource.RLIM_INFINITY else limit - _mapped_bytes()


def _limit(memory_bytes: int) -> _Share:
    """No more address space than is mapped now plus `memory_bytes`, and no core dumps.

    A core dump would put patient data on the disk. Where the system does not say what is mapped
    (only Linux has /proc) memory is not bounded; the time for a film is, everywhere.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _MAPPED.exists():
        limit, inherited = _mapped_bytes() + memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]
        is_cut = inherited != resource.RLIM_INFINITY and inherited < limit
        limit = inherited if is_cut else limit  # which only root may raise
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return _Share(wanted_bytes=memory_bytes, is_cut=is_cut)
    return _Share(wanted_bytes=memory_bytes, is_cut=False)


def _mapped_bytes() -> int:
    return int(_MAPPED.read_text().split()[0]) * resource.getpagesize()
