"""Child processes: started by spawn, restarted when they die, ended with their parent."""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

import structlog

_log = structlog.get_logger()

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_STEADY_S = 60.0  # a child that lived so long starts again without a pause


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What a child does: `main(*arguments)` until SIGTERM."""

    name: str
    main: Callable[..., None]
    arguments: tuple[object, ...]


class Supervisor:
    """Keeps one child a role running; `on_death` is told the process id of each that died.

    `on_stop` is told of those that were killed since they did not end in time: no fault of theirs,
    nor of what they had in hand.
    """

    def __init__(
        self,
        roles: tuple[Role, ...],
        on_death: Callable[[int], None] = lambda _: None,
        on_stop: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._roles, self._on_death, self._on_stop = roles, on_death, on_stop
        self._mourned: set[int] = set()
        self._children: dict[str, BaseProcess] = {}
        self._since: dict[str, float] = {}
        self._pause_s: dict[str, float] = dict.fromkeys((r.name for r in roles), _FIRST_PAUSE_S)

    def start(self) -> None:
        """Every role has its child, or will have: see `watch`."""
        for role in self._roles:
            self._start(role)

    def watch(self) -> None:
        """Start children again that died, each after a pause that grows while it keeps dying.

        One that the machine cannot start now, for want of file handles or memory, has died too.
        """
        for role in self._roles:
            child, age = self._children[role.name], time.monotonic() - self._since[role.name]
            if child.is_alive():
                continue
            self._mourn(child)
            if age > _STEADY_S:
                self._pause_s[role.name] = _FIRST_PAUSE_S
            if age < self._pause_s[role.name]:
                continue
            if child.pid is not None:
                _log.error("process died", role=role.name, exitcode=child.exitcode)
            self._pause_s[role.name] = min(_LONGEST_PAUSE_S, 2 * self._pause_s[role.name])
            self._start(role)

    def stop(self, grace_s: float) -> None:
        """All children were told to stop, and were killed if they had not after `grace_s`."""
        for child in self._children.values():
            if child.is_alive():
                child.terminate()
        deadline = time.monotonic() + grace_s
        for name, child in self._children.items():
            if child.pid is None:
                continue  # it was never started
            child.join(max(0.0, deadline - time.monotonic()))
            if child.is_alive():
                _log.error("process killed", role=name)
                child.kill()
                child.join()
                self._on_stop(child.pid or 0)  # what it had in hand is free at once

    def _mourn(self, child: BaseProcess) -> None:
        """Tell of a death once, at once: its successor may have to wait."""
        if child.pid is not None and child.pid not in self._mourned:
            self._mourned.add(child.pid)
            self._on_death(child.pid)

    def _start(self, role: Role) -> None:
        child = self._context.Process(target=role.main, args=role.arguments, name=role.name)
        self._children[role.name], self._since[role.name] = child, time.monotonic()
        try:
            child.start()
        except (OSError, MemoryError) as fault:
            _log.error("process not started", role=role.name, error=str(fault))
        self._mourned.discard(child.pid or 0)  # the system gives numbers again


def stop_event() -> threading.Event:
    """Set when this process is told to stop, or, in a child, when its parent has died."""
    stop = threading.Event()
    parent = multiprocessing.parent_process()
    _heed({signal.SIGTERM} if parent else {signal.SIGTERM, signal.SIGINT}, stop)
    if parent is not None:
        leave_interrupts_to_parent()
        threading.Thread(target=_follow, args=(parent, stop), daemon=True).start()
    return stop


def _heed(signals: Collection[signal.Signals], stop: threading.Event) -> None:
    """The event is set at a signal: by a thread, since a handler runs wherever the main one is.

    There it would wait for the lock of the very event that it interrupted, for ever.
    """
    told, telling = socket.socketpair()
    telling.setblocking(False)
    signal.set_wakeup_fd(telling.fileno(), warn_on_full_buffer=False)
    _handle(signals, lambda: None)
    arguments = (told, telling, signals, stop)
    try:
        threading.Thread(target=_listen, args=arguments, daemon=True).start()
    except RuntimeError:  # the system gives none for now: better seldom deaf than not started
        _handle(signals, stop.set)


def _handle(signals: Collection[signal.Signals], act: Callable[[], None]) -> None:
    for number in signals:
        signal.signal(number, lambda *_: act())


def _listen(
    told: socket.socket,
    telling: socket.socket,  # noqa: ARG001 - open for as long as the system writes to its number
    signals: Collection[signal.Signals],
    stop: threading.Event,
) -> None:
    while True:
        if told.recv(1)[0] in signals:
            stop.set()


def leave_interrupts_to_parent() -> None:
    """SIGINT, which goes to a whole terminal's group, does nothing to this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def owners(port: int) -> str:
    """How the names of all lease owners of a node begin: its machine and the port it listens on.

    The port can be listened on once, so whoever listens knows that an earlier node's processes are
    dead or dying, and may free what they held.
    """
    return f"{os.uname().nodename}:{port}/"


def owner(port: int, role: str) -> str:
    """A name for leases that no other living process has."""
    return f"{owner_of(port, os.getpid())}{role}"


def owner_of(port: int, pid: int) -> str:
    """How the names of all lease owners of one process begin."""
    return f"{owners(port)}{pid}/"


def _follow(parent: BaseProcess, stop: threading.Event) -> None:
    parent.join()
    stop.set()
