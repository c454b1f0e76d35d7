"""An HTTP server on loopback that answers as a test wants."""

import http.server
import threading


class LoopbackServer:
    """Serves while a `with` block lasts. A subclass has answer(request), with a BaseHTTPRequestHandler; requests
    are in .seen as (method, path, headers)."""

    def __init__(self):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.seen.append((self.command, self.path, self.headers))
                outer.answer(self)

            do_HEAD = do_POST = do_GET

        self.seen = []
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def reply(request, status, body=b"", headers=None):
    """The whole answer at once; without a body to a HEAD."""
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
