"""A package index on the loopback, of two small packages, whose answers may be kept.

For scripts/programs: prints its address, then a line for each request.
"""

import hashlib
import http.server
import io
import zipfile

INNER = "def numbers():\n    return range(10)\n"
OUTER = "import inner\n\ndef total():\n    return sum(inner.numbers())\n"
# No compression, nor pip's memory for small things, makes this one small.
NOISE = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(100_000))


def wheel(name, code, requires=""):
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": code,
        f"{name}/data": NOISE,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: programs\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(path), content)
    return packed.getvalue()


ANSWERS = {}
for name, code, requires in [("inner", INNER, ""), ("outer", OUTER, "Requires-Dist: inner\n")]:
    content = wheel(name, code, requires)
    file = f"/files/{name}-1.0-py3-none-any.whl"
    ANSWERS[file] = ("application/octet-stream", content)
    digest = hashlib.sha256(content).hexdigest()
    page = f'<!DOCTYPE html><html><body><a href="{file}#sha256={digest}">{file[7:]}</a></body></html>'
    ANSWERS[f"/simple/{name}/"] = ("text/html", page.encode())


class Index(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        print(self.path, flush=True)
        kind, content = ANSWERS.get(self.path, ("text/plain", None))
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", len(content or b""))
        if content:
            self.send_header("Cache-Control", "max-age=86400")
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
print(f"http://127.0.0.1:{server.server_port}/simple/", flush=True)
server.serve_forever()
