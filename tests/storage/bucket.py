"""A server that speaks S3, in a process of its own, with one bucket."""

import os
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest

from tests.peers import tools

BUCKET = "films"
_START_S = 60


class S3Server:
    """moto's, on loopback; what it holds goes with its process."""

    def __init__(self) -> None:
        self.port = tools.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """It answers, and has the bucket, empty."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        tools.wait_until(lambda: tools.listens(self.port), _START_S, "the S3 server")
        self.make_bucket()

    def kill(self) -> None:
        """It is gone, in the middle of whatever it did."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Connections are accepted by the system, and nobody answers them."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Nobody's keys are known."""
        self._ask("POST", "moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self._ask("POST", "moto-api/reset-auth", b"inf")

    def drop_bucket(self) -> None:
        """The bucket is gone, with all that was in it."""
        self._ask("POST", "moto-api/reset")

    def make_bucket(self) -> None:
        """It is there anew."""
        self._ask("PUT", BUCKET)

    def bytes_of(self, url: str) -> bytes:
        """What another client reads at s3://bucket/key."""
        return bytes(self._client().get_object(**_object(url))["Body"].read())

    def remove(self, url: str) -> None:
        """Another client has removed what was there."""
        self._client().delete_object(**_object(url))

    def _client(self) -> Any:
        return boto3.client("s3", endpoint_url=self.url)

    def make_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """This process's clients, and those of its children, find it."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", self.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ours")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "unspoken")

    def place(self) -> str:
        """The URL of an empty store in the bucket."""
        return f"s3://{BUCKET}/{uuid.uuid4().hex}"

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        kind = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.url}/{path}", body, kind, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())


def _object(url: str) -> dict[str, str]:
    name, _, key = url.removeprefix("s3://").partition("/")
    return {"Bucket": name, "Key": key}


@contextmanager
def running() -> Iterator[S3Server]:
    """One of its own, which may be killed."""
    server = S3Server()
    server.start()
    try:
        yield server
    finally:
        server.kill()
