"""Serves a folder as servers in Python find files, and says in `X-Resolved` which one it looked for.

Arguments: address, port (0 for any), folder. Prints its port. The host that is asked for says how a target is read:
`files.*` by `http.server`, `wsgi.*` as a WSGI server makes `PATH_INFO` and an application a file of it."""

import http.server
import os
import posixpath
import sys
import urllib.parse

ADDRESS, PORT, ROOT = sys.argv[1], int(sys.argv[2]), sys.argv[3]


class Files(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments):
        super().__init__(*arguments, directory=ROOT)

    def translate_path(self, path):
        if self.headers["Host"].startswith("files."):
            return super().translate_path(path)
        info = urllib.parse.unquote(urllib.parse.urlsplit(path).path)
        return os.path.join(ROOT, posixpath.normpath(info).lstrip("/"))

    def end_headers(self):
        found = os.path.relpath(self.translate_path(self.path), ROOT)
        resolved = "/" if found == "." else "/" + found
        self.send_header("X-Resolved", resolved.encode(errors="surrogateescape").decode("latin-1"))
        super().end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer((ADDRESS, PORT), Files)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
