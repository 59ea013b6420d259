"""A web service that tells who asked it for what; one line of log a request."""

import http.server
import os
import socket
import sys


class Service(http.server.BaseHTTPRequestHandler):
    """Answers GET."""

    def do_GET(self) -> None:
        body = f"{os.environ.get('GREETING', 'hello')} from {socket.gethostname()} at {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, _format: str, *args: object) -> None:
        sys.stdout.write(f"served {args[0]}\n")
        sys.stdout.flush()


http.server.ThreadingHTTPServer(("", 8000), Service).serve_forever()
