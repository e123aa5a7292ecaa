"""OHIF as its package on npm ships it, and Orthanc's DICOMweb, on one origin.

`.ci/ohif` fetches it and prints the folder that VALD_OHIF must name.
"""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.peers.orthanc import Orthanc

_CONFIG = """
window.config = {
  routerBasename: '/', extensions: [], modes: [], showStudyList: true,
  showWarningMessageForCrossOrigin: false, investigationalUseDialog: {option: 'never'},
  defaultDataSourceName: 'orthanc',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
    sourceName: 'orthanc',
    configuration: {
      friendlyName: 'Orthanc', name: 'orthanc',
      wadoUriRoot: location.origin + '/dicom-web', qidoRoot: location.origin + '/dicom-web',
      wadoRoot: location.origin + '/dicom-web', qidoSupportsIncludeField: false,
      imageRendering: 'wadors', thumbnailRendering: 'wadors', enableStudyLazyLoad: true,
      supportsFuzzyMatching: false, supportsWildcard: true,
      omitQuotationForMultipartRequest: true,
    },
  }],
};
"""
_PASSED_ON = ("Accept", "Content-Type")


def dist() -> Path:
    """The built viewer; skips the test where there is none."""
    folder = Path(os.environ.get("VALD_OHIF", "/nowhere"))
    if not (folder / "index.html").is_file():
        pytest.skip("VALD_OHIF names no OHIF viewer")
    return folder


@contextmanager
def served(pacs: Orthanc) -> Iterator[str]:
    """The viewer's URL."""

    class Handler(SimpleHTTPRequestHandler):
        """Files of the viewer, its routes, and /dicom-web by way of Orthanc."""

        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(dist()))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            if self.path.startswith("/dicom-web"):
                self._pass_on()
            elif self.path.startswith("/app-config.js"):
                self._answer(200, "text/javascript", _CONFIG.encode())
            else:
                if not Path(self.translate_path(self.path)).is_file():
                    self.path = "/index.html"  # a route within the viewer
                super().do_GET()

        def _pass_on(self) -> None:
            headers = {name: self.headers[name] for name in _PASSED_ON if self.headers[name]}
            url = f"http://127.0.0.1:{pacs.http_port}{self.path}"
            request = urllib.request.Request(url, headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    self._answer(answer.status, answer.headers["Content-Type"], answer.read())
            except urllib.error.HTTPError as fault:
                self._answer(fault.code, "text/plain", b"")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing is said."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
