"""Objects behind S3: what a server says, or does not, is told as the moment's or ours.

That a bucket keeps the contract of every store is in test_objects.
"""

import hashlib
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest

from storage.errors import ObjectMissingError, ObjectsUnavailableError, StoreMismatchError
from storage.objects import FsspecObjectStore, ObjectStore, service
from storage.objects.whole import ref_of
from tests.storage.bucket import BUCKET, S3Server


def every_call(store: ObjectStore) -> list[Callable[[], object]]:
    """Each that looks into the bucket."""
    ref = ref_of("received/film.dcm", b"DICM")
    return [
        partial(store.keep, ref.name, b"DICM"),
        partial(store.read, ref),
        partial(store.demand, ref),
        partial(store.local_path, ref),
        partial(store.remove, ref),
        lambda: list(store.stale(0)),
        partial(store.drop_stale, ref.name, 0),
        store.free_bytes,
    ]


def test_another_client_reads_exactly_the_bytes_that_were_kept(bucket: S3Server) -> None:
    place, film = bucket.place(), bytes(range(256)) * 4096
    ref = FsspecObjectStore(place).keep("received/ab/film.dcm", [film[:7], film[7:]])
    assert bucket.bytes_of(f"{place}/received/ab/film.dcm") == film
    assert (ref.digest, ref.size_bytes) == (hashlib.sha256(film).hexdigest(), 1 << 20)


def test_a_server_that_is_gone_is_away_and_heals_when_it_is_back(bucket: S3Server) -> None:
    store = FsspecObjectStore(bucket.place())
    bucket.kill()
    began_s = time.monotonic()
    try:
        for call in every_call(store):
            with pytest.raises(ObjectsUnavailableError, match="EndpointConnectionError"):
                call()
        assert time.monotonic() - began_s < 30
        opened_meanwhile = FsspecObjectStore(bucket.place())
    finally:
        bucket.start()
    for healed in (store, opened_meanwhile):
        assert healed.read(healed.keep("received/film.dcm", b"DICM")) == b"DICM"


def test_a_server_that_is_silent_is_away_within_bounded_time(
    bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FsspecObjectStore(bucket.place())
    ref = store.keep("received/other.dcm", b"DICM")
    with monkeypatch.context() as hasty, bucket.silent():
        hasty.setattr(service, "_LOOK_S", 1.0)
        hasty.setattr(service, "_BYTES_S", 2.0)
        began_s = time.monotonic()
        for call in every_call(store):
            with pytest.raises(ObjectsUnavailableError, match="no answer in time"):
                call()
        assert time.monotonic() - began_s < 8 * 3
    assert store.read(ref) == b"DICM"


def test_a_bucket_that_is_not_there_is_refused_at_the_start(bucket: S3Server) -> None:
    with pytest.raises(StoreMismatchError, match=r"there is no bucket flims: make it, or correct"):
        FsspecObjectStore("s3://flims/vald")


def test_nothing_is_missing_from_a_bucket_that_is_gone_and_it_is_not_made_anew(
    bucket: S3Server,
) -> None:
    store = FsspecObjectStore(bucket.place())
    bucket.drop_bucket()
    try:
        for call in every_call(store):
            with pytest.raises(ObjectsUnavailableError, match=f"no bucket {BUCKET}"):
                call()
        with pytest.raises(StoreMismatchError):
            FsspecObjectStore(bucket.place())
    finally:
        bucket.make_bucket()
    with pytest.raises(ObjectMissingError):
        store.read(ref_of("received/film.dcm", b"DICM"))


def test_what_another_process_has_removed_since_it_was_listed_is_missing(bucket: S3Server) -> None:
    place = bucket.place()
    store = FsspecObjectStore(place)
    kept, removed = (store.keep(f"received/{n}.dcm", n.encode()) for n in "ab")
    assert set(store.stale(-1)) == {kept.name, removed.name}
    bucket.remove(f"{place}/{removed.name}")
    with pytest.raises(ObjectMissingError):
        store.demand(removed)
    assert list(store.stale(-1)) == [kept.name]


class _Cut(socketserver.BaseRequestHandler):
    """Hands on what is answered, and so many bytes of what is asked; then it breaks off."""

    server: "_Cutter"

    def handle(self) -> None:
        with socket.create_connection(self.server.behind) as real:
            threading.Thread(target=self._answer, args=(real,), daemon=True).start()
            left = self.server.most
            while left > 0 and (some := self.request.recv(min(left, 1 << 16))):
                real.sendall(some)
                left -= len(some)

    def _answer(self, real: socket.socket) -> None:
        with suppress(OSError):
            while some := real.recv(1 << 16):
                self.request.sendall(some)


class _Cutter(socketserver.ThreadingTCPServer):
    def __init__(self, port: int, most: int) -> None:
        self.behind, self.most = ("127.0.0.1", port), most
        super().__init__(("127.0.0.1", 0), _Cut)


@contextmanager
def cut_after(port: int, most: int) -> Iterator[str]:
    """The address of a way to that port on which each connection breaks after so many bytes."""
    with _Cutter(port, most) as cutter:
        threading.Thread(target=cutter.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{cutter.server_address[1]}"
        finally:
            cutter.shutdown()


def test_a_write_that_breaks_off_leaves_no_half_object_and_keeps_the_one_before(
    bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket.place()
    whole = FsspecObjectStore(place)
    before = whole.keep("old.dcm", b"DICM")
    with cut_after(bucket.port, most=100_000) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        cut = FsspecObjectStore(place)
        for name in ("old.dcm", "new.dcm"):
            with pytest.raises(ObjectsUnavailableError):
                cut.keep(name, bytes(1 << 20))
    assert list(whole.stale(-1)) == ["old.dcm"]
    assert whole.read(before) == b"DICM"


def test_who_is_refused_is_told_so_and_nothing_is_missing(bucket: S3Server) -> None:
    store = FsspecObjectStore(bucket.place())
    ref = store.keep("film.dcm", b"DICM")
    with bucket.refusing():
        for call in (partial(store.read, ref), partial(store.keep, "x", b""), store.free_bytes):
            with pytest.raises(ObjectsUnavailableError, match="PermissionError"):
                call()


@pytest.mark.parametrize("url", ["s3://ours:unspoken@films/vald", "s3://"])
def test_an_address_with_keys_or_without_a_bucket_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StoreMismatchError, match="AWS_ACCESS_KEY_ID") as refused:
        FsspecObjectStore(url)
    assert "unspoken" not in str(refused.value)


def test_keys_in_an_address_are_not_in_what_is_said(
    bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://ours:unspoken@127.0.0.1:1")
    with pytest.raises(ObjectsUnavailableError) as told:
        FsspecObjectStore(bucket.place()).free_bytes()
    assert "unspoken" not in str(told.value)


def test_a_client_that_is_not_installed_is_named_with_what_installs_it() -> None:
    script = (
        "import sys; sys.modules['s3fs'] = None; from storage import objects; "
        "from storage.errors import StoreMismatchError\n"
        "try: objects.open_store('s3://films/vald')\n"
        "except StoreMismatchError as fault: print(fault)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "pip install 'vald-node[s3]'" in said.stdout
