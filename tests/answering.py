"""A small HTTP server for tests of load generators: it echoes, or does what a request's body asks for."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(BaseHTTPRequestHandler):
    """Echoes; stalls, refuses or hangs up where the body says so."""

    protocol_version = "HTTP/1.1"
    stall_until = 0.0
    wbufsize = 1 << 16  # head and body leave in one piece, or the second waits for a delayed acknowledgement

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"hang up":
            self.close_connection = True
            return
        time.sleep(max(0.0, type(self).stall_until - time.monotonic()))
        self.send_response(400 if body == b"bad" else 200)
        self.send_header("Content-Length", str(len(body)))
        if body == b"bad":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Be quiet."""


@contextmanager
def answering() -> Iterator[int]:
    """Run the server for the time of a ``with`` and give its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        Server.stall_until = 0.0
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
