"""Somebody who takes webhooks."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """A web server of its own on loopback, that refuses, or keeps its sender waiting, when told to."""

    def __init__(self) -> None:
        self.taken: list[tuple[dict[str, str], bytes]] = []
        """Headers, in lower case, and body of each that it took."""
        self.refusing = 0
        """So many it will refuse before it takes one."""
        self.answering = threading.Event()
        """While this is not set, it takes a webhook and does not say so."""
        self.answering.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.refusing -= 1
                refused = receiver.refusing >= 0
                if not refused:
                    receiver.taken.append(({k.lower(): v for k, v in self.headers.items()}, body))
                receiver.answering.wait(30)
                try:
                    self.send_response(503 if refused else 204)
                    self.end_headers()
                except OSError:
                    pass  # its sender was killed

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._web.daemon_threads = True
        self.url = f"http://localhost:{self._web.server_port}/hook"
        threading.Thread(target=self._web.serve_forever, daemon=True).start()

    def of(self, id: str) -> list[tuple[dict[str, str], bytes]]:
        """Those of a job."""
        return [(headers, body) for headers, body in self.taken if json.loads(body)["request_id"] == id]

    def close(self) -> None:
        self.answering.set()
        self._web.shutdown()
        self._web.server_close()
