"""The size of a wheel is that of what it holds, and asking for it downloads no more than its table of contents."""

from __future__ import annotations

import io
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

from benchmarks import images


def test_a_wheel_is_measured_by_its_table_of_contents() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("library.so", bytes(5_000_000))
        archive.writestr("package/module.py", "x = 1\n")
    body, sent = file.getvalue(), []

    class Index(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()

        def do_GET(self) -> None:
            first, last = map(int, re.findall(r"\d+", self.headers["Range"]))
            part = body[first : last + 1]
            sent.append(len(part))
            self.send_response(206)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        wheel = images.measured("package", f"http://127.0.0.1:{server.server_port}/package.whl")
    finally:
        server.shutdown()
        server.server_close()
    assert (wheel.download_bytes, wheel.unpacked_bytes, wheel.python_bytes) == (len(body), 5_000_006, 6)
    assert wheel.installed_bytes == 5_000_012
    assert sum(sent) < len(body) / 2
