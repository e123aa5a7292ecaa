"""A bucket with something before it that blocks some of its objects."""

import uuid

import pytest

from storage.objects import FsspecObjectStore
from storage.objects.service import Service

PAGE = b"<html><body>blocked</body></html>"


def behind_filter(
    monkeypatch: pytest.MonkeyPatch, blocked: str, fault: Exception | None = None
) -> tuple[FsspecObjectStore, list[str]]:
    """It gives a page for each object of such a name, or raises; and what was asked of it."""
    store, asked, get = FsspecObjectStore(f"memory://{uuid.uuid4().hex}"), list[str](), Service.get

    def filtered(service: Service, name: str, size_bytes: int) -> bytes:
        if blocked not in name:
            return get(service, name, size_bytes)
        asked.append(name)
        if fault is None:
            return PAGE
        with service._there(f"object {name}"):
            raise fault

    monkeypatch.setattr(Service, "get", filtered)
    return store, asked
