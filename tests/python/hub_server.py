"""A stand-in for the Hugging Face Hub: one repository, the requests that a download makes.

Serves HEAD and GET of /{repo}/resolve/{revision}/{file} with the headers huggingface_hub relies on
(ETag, X-Repo-Commit, X-Linked-Size, Content-Length, ranges), and says 404 as the Hub does.
"""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Runs until `stop`. `truncate` makes every body end early, the connection with it."""

    def __init__(self, repo: str, files: dict[str, bytes], revisions: tuple[str, ...]) -> None:
        self.requests: list[str] = []
        self.truncate = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def refuse(self, code: str) -> None:
                self.send_response(404)
                self.send_header("X-Error-Code", code)
                self.send_header("X-Error-Message", f"{code}: {self.path}")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def answer(self, *, with_body: bool) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                parts = self.path.strip("/").split("/", 4)
                if len(parts) != 5 or parts[2] != "resolve" or "/".join(parts[:2]) != repo:
                    return self.refuse("RepoNotFound")
                if parts[3] not in revisions:
                    return self.refuse("RevisionNotFound")
                data = files.get(parts[4])
                if data is None:
                    return self.refuse("EntryNotFound")
                first = 0
                wanted = self.headers.get("Range")
                if wanted:
                    first = int(wanted.removeprefix("bytes=").split("-")[0])
                self.send_response(206 if wanted else 200)
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("X-Linked-Size", str(len(data)))
                self.send_header("Content-Length", str(len(data) - first))
                if wanted:
                    self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
                self.end_headers()
                if with_body:
                    self.wfile.write(data[first : len(data) // 2 if hub.truncate else None])
                    self.close_connection = hub.truncate
                return None

            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                self.answer(with_body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop serving and close the port."""
        self.server.shutdown()
        self.server.server_close()
