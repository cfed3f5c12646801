"""Models by name: where they are looked for, and downloads from a real HTTPS server on localhost, one fault a test."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLED, ROOT

from eyas import store
from eyas.cli import models
from eyas.errors import CardError, ModelError, OptionError
from eyas.store import download

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes: more than the sockets' buffers hold back
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
CARD = {"resize": "stretch", "names": ["car", "van"]}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without models: cache and configuration are in this folder."""
    for name in ("EYAS_MODELS", "EYAS_MANIFEST", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "user"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    return folder


def entry(**fields: Any) -> dict[str, Any]:
    usual = {"name": "cars", "url": "https://models.example.com/cars.onnx", "sha256": SHA256, "licence": "MIT"}
    return {k: v for k, v in (usual | fields).items() if v is not None}


@pytest.fixture
def manifest(home: Path) -> Callable[..., Path]:
    """manifest(entry, …) writes the user's own manifest and returns it."""

    def write(*entries: Any) -> Path:
        file = home / "config" / "eyas" / "models.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"models": entries}), encoding="utf-8")
        return file

    return write


def folder_with(folder: Path, *names: str, content: bytes = b"x") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(content)
    return folder


def left_in(folder: Path) -> list[str]:
    """What is in a folder, random tokens left out."""
    return sorted(re.sub(r"\+[0-9a-f]{16}\+[0-9a-f]{8}\.", "+.", p.name) for p in folder.iterdir())


# The server


class Server(ThreadingHTTPServer):
    """One file at /cars.onnx; the attributes are what a test sets and looks at."""

    def __init__(self, certificate: Path) -> None:
        self.content, self.etag, self.modified = CONTENT, '"one"', "Sat, 01 Feb 2025 10:00:00 GMT"
        self.status, self.ranges, self.send, self.length, self.pause_s = 200, True, sys.maxsize, True, 0.0
        self.location: str | None = None
        self.requests: list[dict[str, str]] = []
        self.go_on = threading.Event()
        super().__init__(("localhost", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server_port}/cars.onnx"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        s = self.server
        s.requests.append({k.lower(): v for k, v in self.headers.items()})
        if s.location and self.path == "/cars.onnx":
            return self.answer(302, {"Location": s.location, "Content-Length": "0"})
        if s.status != 200:
            return self.answer(s.status, {"Content-Length": "0"})
        marks = {k: v for k, v in {"ETag": s.etag, "Last-Modified": s.modified}.items() if v}
        first, wanted = 0, self.headers.get("Range")
        if wanted and s.ranges and self.headers.get("If-Range") in marks.values():
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            marks["Content-Range"] = f"bytes {first}-{len(s.content) - 1}/{len(s.content)}"
            if first >= len(s.content):
                return self.answer(416, {"Content-Length": "0"})
        body = s.content[first:]
        if s.length:
            marks["Content-Length"] = str(len(body))
        self.answer(206 if first else 200, marks)
        self.wfile.write(body[: s.send])
        self.wfile.flush()
        if s.pause_s:
            s.go_on.wait(s.pause_s)
        return None

    def answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and its self-signed certificate for localhost, made for this run."""
    if not shutil.which("openssl"):
        pytest.skip("the openssl command is missing, which makes the server's certificate")
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    more = "-addext subjectAltName=DNS:localhost -addext keyUsage=critical,digitalSignature,keyCertSign"
    command = ["openssl", *words.split(), *more.split(), "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=30)
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return both


@pytest.fixture
def untrusted(certificate: Path) -> Iterator[Server]:
    with Server(certificate) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def server(untrusted: Server, certificate: Path, manifest: Any, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server whose certificate is trusted, and a manifest with its one file, `cars`."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    manifest(entry(url=untrusted.url))
    return untrusted


def pull_fails(match: str, name: str = "cars", kind: type[Exception] = ModelError) -> None:
    with pytest.raises(kind, match=match) as failure:
        store.pull(name)
    assert re.search(r": got .+; expected .+\. .+", str(failure.value), re.DOTALL)
    assert not (store.download_folder() / f"{name}.onnx").exists()


def interrupted(server: Server) -> None:
    """A first run whose connection breaks in the middle."""
    server.send = HALF
    pull_fails("was cut off: got 256000 bytes; expected 512000 bytes.*`eyas models pull cars` goes on from there")
    server.send = sys.maxsize
    server.requests.clear()


# Names and places


@pytest.mark.parametrize("model", ["a/b", "./nanodet", "missing.onnx", "nanodet.ONNX", "model.pt", "det-1.2"])
def test_what_looks_like_a_path_is_taken_as_one(model: str) -> None:
    assert store.resolve(model) == store.Located(Path(model), {})


def test_an_existing_file_comes_before_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.resolve("nanodet").path == BUNDLED
    monkeypatch.chdir(folder_with(tmp_path / "here", "nanodet"))
    assert store.resolve("nanodet").path == Path("nanodet")


def test_folders_come_in_order_and_bring_cards(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = folder_with(tmp_path / "one", "both.onnx")
    two = folder_with(tmp_path / "two", "both.onnx", "nanodet.onnx", "det-1.2.onnx", ".hidden.onnx")
    (two / "det-1.2.json").write_text(json.dumps(CARD))
    own = folder_with(home / "cache/eyas/models", "both.onnx", "own.onnx")
    monkeypatch.setenv("EYAS_MODELS", os.pathsep.join([str(one), "", str(tmp_path / "missing"), str(two)]))
    assert store.resolve("both").path == one / "both.onnx"
    assert store.resolve("det-1.2") == store.Located(two / "det-1.2.onnx", CARD)
    assert store.resolve("own").path == own / "own.onnx"
    assert store.resolve("nanodet").path == BUNDLED
    rows = [(e.name, e.place, e.kind, e.shadowed) for e in store.known()]
    assert rows == [
        ("nanodet", "bundled", "bundled", False),
        ("both", str(one), "folder", False),
        ("both", str(two), "folder", True),
        ("det-1.2", str(two), "folder", False),
        ("nanodet", str(two), "folder", True),
        ("both", str(own), "folder", True),
        ("own", str(own), "folder", False),
    ]


def test_a_card_that_is_no_json_is_refused(home: Path) -> None:
    folder_with(home / "cache/eyas/models", "cars.onnx", "cars.json")
    with pytest.raises(CardError, match="is not JSON"):
        store.resolve("cars")


def test_the_download_folder_may_be_named_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = folder_with(home / "cache/eyas/models", "cars.onnx")
    monkeypatch.setenv("EYAS_MODELS", str(own))
    assert [e.name for e in store.known()] == ["nanodet", "cars"]


def test_unknown_names_are_refused_with_near_ones(manifest: Any) -> None:
    manifest(entry(name="vehicles"))
    with pytest.raises(
        ModelError, match=r"an .onnx file or the name of a model \(`eyas models` lists them\).*vehicles"
    ):
        store.resolve("vehicle")
    with pytest.raises(ModelError, match="Did you mean nanodet"):
        store.resolve(Path("nanodett"))
    for strange in ("", "..", "x" * 5000, "a\0b", "nano*"):
        with pytest.raises(ModelError, match=r"there is no model|Did you mean"):
            store.resolve(strange)


def test_a_model_that_is_not_downloaded_says_how(manifest: Any) -> None:
    file = manifest(entry())
    with pytest.raises(ModelError, match=re.escape(f"{file}; expected its file. `eyas models pull cars`")):
        store.resolve("cars")


def test_manifests_come_in_order(manifest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = manifest(entry(licence="own"), entry(name="more", bytes=7, about="a line"))
    named = tmp_path / "named.json"
    named.write_text(json.dumps({"models": [entry(licence="named", sha256=SHA256.upper())]}), encoding="utf-8-sig")
    monkeypatch.setenv("EYAS_MANIFEST", str(named))
    rows = [(e.name, e.place, e.licence, e.size_bytes, e.shadowed) for e in store.known()[1:]]
    assert rows == [
        ("cars", str(named), "named", None, False),
        ("cars", str(own), "own", None, True),
        ("more", str(own), "MIT", 7, False),
    ]
    assert store.known()[1].sha256 == SHA256


# Manifests


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (["cars"], 'entry 1 is no entry: got "cars"; expected an object'),
        ([entry(name=None)], "entry 1: name is wrong: got nothing"),
        ([entry(), entry(name="b", url=None)], r"entry 2 \(b\): url is wrong: got nothing"),
        ([entry(sha256=None)], r"entry 1 \(cars\): sha256 is wrong: got nothing; expected 64 hex digits"),
        ([entry(licence=None)], "licence is wrong: got nothing"),
        ([entry(licence=" ")], 'licence is wrong: got " "'),
        ([entry(licence="MIT\x1b[2J")], "licence is wrong"),
        ([entry(sha256=SHA256[:-1])], "sha256 is wrong"),
        ([entry(sha256="g" * 64)], "sha256 is wrong"),
        ([entry(sha256=SHA256 + "\n")], "sha256 is wrong"),
        ([entry(bytes=0)], "bytes is wrong: got 0"),
        ([entry(bytes=True)], "bytes is wrong: got true"),
        ([entry(bytes="9")], 'bytes is wrong: got "9"'),
        ([entry(about=3)], "about is wrong: got 3"),
        ([entry(card=[])], r"card is wrong: got \[\]; expected an object"),
        ([entry(card={"sizes": 1})], "the card cannot be read: got TypeError: unknown fields sizes"),
        ([entry(card={"resize": "zoom"})], r"entry 1 \(cars\): the card's resize rule is wrong"),
        ([entry(card={"names": []})], "the card's class names is wrong"),
        ([entry(license="MIT")], "unknown field: got 'license'; expected name .* Did you mean licence?"),
        ([entry(), entry(name="CARS")], "entry 2: the name is taken: got CARS, as in entry 1"),
    ],
)
def test_a_bad_entry_is_refused(entries: list[Any], says: str, manifest: Any) -> None:
    file = manifest(*entries)
    with pytest.raises(ModelError, match=says) as failure:
        store.known()
    assert str(failure.value).startswith(f"{file}, entry {len(entries)}")
    assert store.resolve("nanodet").path == BUNDLED  # found before a manifest is read


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "a/b", "../x", "a\\b", "a b", "é", "a+b", "x.ONNX", "a\n", "y" * 101, 3]
)
def test_names_that_could_lead_elsewhere_are_refused(name: Any, manifest: Any) -> None:
    manifest(entry(name=name))
    with pytest.raises(ModelError, match="entry 1: name is wrong"):
        store.known()
    if isinstance(name, str):
        with pytest.raises(ModelError):
            store.pull(name)
        with pytest.raises(ModelError):
            store.remove(name)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://a/b",
            "ftp://a/b",
            "file:///etc/passwd",
            "a/b",
            "https:///b",
            "https://user:word@a/b",
            "https://a/b c",
        ),
        *("https://a:99999/", "https://[a/", "https://a/é", "https://a/\n", "", 1, None),
    ],
)
def test_other_addresses_than_https_are_refused(url: Any, manifest: Any) -> None:
    manifest(entry(url=url))
    with pytest.raises(ModelError, match=r"entry 1 \(cars\): url is wrong"):
        store.known()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"models": {}}', "{}", '{"models": [], "x": 1}', '{"models": ["\xff', "[" * 100_000]
)
def test_a_file_of_another_shape_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.json"
    file.write_text(text, encoding="latin-1")
    monkeypatch.setenv("EYAS_MANIFEST", str(file))
    with pytest.raises(ModelError, match=re.escape(f"the manifest {file} ")):
        store.known()


def test_a_manifest_that_is_named_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYAS_MANIFEST", str(tmp_path / "m.json"))
    with pytest.raises(ModelError, match=r"cannot be read: got .*No such file"):
        store.known()


def test_the_manifest_in_the_docs_is_right(manifest: Any) -> None:
    (text,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/model-registry.md").read_text(encoding="utf-8"), re.DOTALL)
    manifest().write_text(text, encoding="utf-8")
    assert [e.name for e in store.known()] == ["nanodet", "vehicles-3"]


# Downloads


def test_pull_downloads_checks_and_leaves_card_and_receipt(server: Server, manifest: Any, home: Path) -> None:
    manifest(entry(url=server.url, bytes=len(CONTENT), card=CARD))
    seen: list[tuple[int, int | None]] = []
    path = store.pull("cars", progress=lambda done, total: seen.append((done, total)))
    assert path == home / "cache/eyas/models/cars.onnx"
    assert path.read_bytes() == CONTENT
    assert left_in(path.parent) == ["cars.json", "cars.onnx", "cars.sha256"]
    assert store.resolve("cars") == store.Located(path, CARD)
    assert path.with_suffix(".sha256").read_text() == f"{SHA256}  cars.onnx\n"
    assert (seen[0], seen[-1]) == ((0, 512000), (512000, 512000))
    assert seen == sorted(seen)
    assert store.pull("cars") == path
    assert len(server.requests) == 1
    assert "range" not in server.requests[0]


def test_a_download_goes_on_where_it_was_cut_off(server: Server) -> None:
    interrupted(server)
    assert left_in(store.download_folder()) == [".cars+.mark", ".cars+.part"]
    seen: list[int] = []
    path = store.pull("cars", progress=lambda done, total: seen.append(done))
    assert [(r["range"], r["if-range"]) for r in server.requests] == [(f"bytes={HALF}-", '"one"')]
    assert seen[0] == HALF
    assert path.read_bytes() == CONTENT
    assert left_in(path.parent) == ["cars.onnx", "cars.sha256"]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_a_date_serves_where_there_is_no_strong_etag(etag: str, server: Server) -> None:
    server.etag = etag
    interrupted(server)
    assert store.pull("cars").read_bytes() == CONTENT
    assert [r["if-range"] for r in server.requests] == [server.modified]


def test_without_etag_and_date_it_starts_again(server: Server) -> None:
    server.etag = server.modified = ""
    interrupted(server)
    assert left_in(store.download_folder()) == []
    assert store.pull("cars").read_bytes() == CONTENT
    assert "range" not in server.requests[0]


def test_a_server_that_ignores_range_is_read_from_the_start(server: Server) -> None:
    interrupted(server)
    server.ranges = False
    assert store.pull("cars").read_bytes() == CONTENT
    assert "range" in server.requests[0]


def test_a_file_that_has_changed_is_read_from_the_start(server: Server, manifest: Any) -> None:
    server.content = CONTENT[::-1]  # the wrong one, at first
    interrupted(server)
    server.content, server.etag, server.modified = CONTENT, '"two"', ""
    assert store.pull("cars").read_bytes() == CONTENT
    assert server.requests[0]["if-range"] == '"one"'


def test_a_part_as_long_as_the_file_is_answered_by_416_and_read_again(server: Server) -> None:
    interrupted(server)
    (part,) = store.download_folder().glob("*.part")
    part.write_bytes(bytes(len(CONTENT)))
    assert store.pull("cars").read_bytes() == CONTENT
    assert ["range" in r for r in server.requests] == [True, False]


def test_a_whole_part_needs_no_server(server: Server) -> None:
    interrupted(server)
    (part,) = store.download_folder().glob("*.part")
    part.write_bytes(CONTENT)
    assert store.pull("cars").read_bytes() == CONTENT
    assert server.requests == []


def test_a_spoilt_part_is_deleted_and_the_next_run_starts_again(server: Server) -> None:
    interrupted(server)
    (part,) = store.download_folder().glob("*.part")
    part.write_bytes(bytes(HALF))
    pull_fails("is another file: got SHA-256")
    assert left_in(store.download_folder()) == []
    assert store.pull("cars").read_bytes() == CONTENT


def test_a_wrong_file_is_deleted(server: Server) -> None:
    server.content = CONTENT[::-1]
    wrong = hashlib.sha256(server.content).hexdigest()
    pull_fails(f"is another file: got SHA-256 {wrong}; expected {SHA256}, as .*models.json says. It is deleted")
    assert left_in(store.download_folder()) == []


@pytest.mark.parametrize("length", [True, False])
def test_a_declared_size_is_a_limit(length: bool, server: Server, manifest: Any) -> None:
    server.length = length
    manifest(entry(url=server.url, bytes=HALF))
    pull_fails(r"is another file: got \d+ bytes; expected 256000 bytes, as .*models.json says")
    assert left_in(store.download_folder()) == []


@pytest.mark.parametrize("length", [True, False])
def test_without_a_declared_size_there_is_a_limit_too(
    length: bool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LARGEST_BYTES", 400_000)
    server.length = length
    pull_fails(r"got \d+ bytes; expected at most 400000 bytes")
    assert left_in(store.download_folder()) == []


def test_without_a_length_the_declared_size_tells_that_it_was_cut_off(server: Server, manifest: Any) -> None:
    manifest(entry(url=server.url, bytes=len(CONTENT)))
    server.length = False
    interrupted(server)
    assert store.pull("cars").read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "remedy"), [(404, "Check the url in "), (500, "Try again later"), (204, "Check")])
def test_other_answers_are_errors(status: int, remedy: str, server: Server) -> None:
    server.status = status
    pull_fails(f"status {status}.*{remedy}")
    assert left_in(store.download_folder()) == []


def test_a_failed_second_run_keeps_the_part(server: Server) -> None:
    interrupted(server)
    server.status = 503
    pull_fails("HTTP status 503")
    server.status = 200
    assert store.pull("cars").read_bytes() == CONTENT
    assert server.requests[-1]["range"] == f"bytes={HALF}-"


def test_a_redirect_within_https_is_followed_and_keeps_the_range(server: Server) -> None:
    server.location = server.url.replace("cars", "moved")
    interrupted(server)
    assert store.pull("cars").read_bytes() == CONTENT
    assert [r.get("range") for r in server.requests] == [f"bytes={HALF}-"] * 2


@pytest.mark.parametrize("scheme", ["http", "ftp", "file"])
def test_a_redirect_elsewhere_is_refused(scheme: str, server: Server) -> None:
    server.location = server.url.replace("https", scheme).replace("cars", "moved")
    pull_fails("redirect to 'http://.*no plain https" if scheme == "http" else "HTTP status 302|no plain https")
    assert len(server.requests) == 1


def test_redirects_without_end_are_an_error(server: Server) -> None:
    server.location = server.url
    pull_fails("HTTP status 302")


def test_silence_is_an_error_and_the_part_stays(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    server.send, server.pause_s = HALF, 20
    pull_fails("got nothing for 0.2 s")
    assert left_in(store.download_folder()) == [".cars+.mark", ".cars+.part"]


def test_a_certificate_that_is_not_trusted_is_refused(untrusted: Server, manifest: Any) -> None:
    manifest(entry(url=untrusted.url))
    pull_fails("got TLS: .*self-signed certificate.*SSL_CERT_FILE")
    assert untrusted.requests == []


def test_a_closed_port_is_an_error(manifest: Any) -> None:
    with socket.socket() as held:  # bound, not listening
        held.bind(("localhost", 0))
        manifest(entry(url=f"https://localhost:{held.getsockname()[1]}/cars.onnx"))
        pull_fails("got .*refused.*Check the network and HTTPS_PROXY")


def test_being_offline_is_said(manifest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    manifest(entry())
    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    pull_fails(r"cannot download https://models.example.com/cars.onnx: got the host's name cannot be resolved")
    assert left_in(store.download_folder()) == []


# Interrupted, and side by side


@contextmanager
def another_process(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """`pull("cars")` in a process of its own that has got half the file and waits for the rest."""
    server.send, server.pause_s = HALF, 20
    program = "from eyas.store import pull; pull('cars')"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 20
            while sum(p.stat().st_size for p in store.download_folder().glob("*.part")) < HALF // 2:
                assert time.monotonic() < end
                time.sleep(0.01)
            server.send, server.pause_s = sys.maxsize, 0.0
            yield process
        finally:
            process.kill()


def test_a_killed_run_leaves_a_part_that_the_next_one_uses(server: Server) -> None:
    with another_process(server) as process:
        process.kill()
        process.wait()
    assert left_in(store.download_folder()) == [".cars+.mark", ".cars+.part"]
    server.requests.clear()
    path = store.pull("cars")
    assert path.read_bytes() == CONTENT
    assert int(server.requests[0]["range"].removeprefix("bytes=").removesuffix("-")) >= HALF // 2
    assert left_in(path.parent) == ["cars.onnx", "cars.sha256"]


def test_a_run_beside_another_neither_waits_nor_spoils_it(server: Server) -> None:
    with another_process(server) as process:
        path = store.pull("cars")
        assert path.read_bytes() == CONTENT
        assert process.poll() is None
        server.go_on.set()
        process.wait(20)
    assert path.read_bytes() == CONTENT
    assert left_in(path.parent) == ["cars.onnx", "cars.sha256"]


def test_runs_at_once_all_succeed(server: Server) -> None:
    faults: list[BaseException] = []

    def one() -> None:
        try:
            store.pull("cars")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert (store.download_folder() / "cars.onnx").read_bytes() == CONTENT
    assert left_in(store.download_folder()) == ["cars.onnx", "cars.sha256"]


def test_an_interrupt_keeps_the_part_for_the_next_run_alone(server: Server) -> None:
    def stop(done: int, total: int | None) -> None:
        if done >= HALF // 2:
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            store.pull("cars", progress=stop)
        assert left_in(store.download_folder()) == [".cars+.mark", ".cars+.part"]
    assert store.pull("cars").read_bytes() == CONTENT


# What is in the way


def test_a_file_that_eyas_did_not_download_stays(server: Server, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "to", "cars.onnx", content=b"mine")
    with pytest.raises(OptionError, match=r"is in the way: got another file.* --to"):
        store.pull("cars", folder)
    assert (folder / "cars.onnx").read_bytes() == b"mine"
    with pytest.raises(OptionError, match=r"cannot write .*Not a directory|cannot write .*File exists"):
        store.pull("cars", folder / "cars.onnx")
    assert server.requests == []


def test_to_makes_the_folder_and_keeps_the_users_card(server: Server, tmp_path: Path, manifest: Any) -> None:
    manifest(entry(url=server.url, card=CARD))
    folder = folder_with(tmp_path / "to", "cars.json", content=b"{}")
    assert store.pull("cars", folder).read_bytes() == CONTENT
    assert (folder / "cars.json").read_bytes() == b"{}"
    assert store.pull("cars", str(tmp_path / "a" / "b")) == tmp_path / "a" / "b" / "cars.onnx"
    assert json.loads((tmp_path / "a/b/cars.json").read_text()) == CARD
    with pytest.raises(ModelError, match="is not downloaded"):
        store.resolve("cars")


def test_a_manifest_that_moved_on_is_said_and_pulled(
    server: Server, manifest: Any, caplog: pytest.LogCaptureFixture, eyas: Any
) -> None:
    path = store.pull("cars")
    server.content = CONTENT[::-1]
    manifest(entry(url=server.url, sha256=hashlib.sha256(server.content).hexdigest()))
    with caplog.at_level(logging.WARNING, "eyas"):
        assert store.resolve("cars").path == path
    assert "`eyas models pull cars` fetches it" in caplog.text
    assert "(downloaded, outdated: pull again)" in eyas("list")
    assert store.pull("cars").read_bytes() == server.content
    assert "outdated" not in eyas("list")


def test_pull_of_what_needs_none(home: Path, caplog: pytest.LogCaptureFixture, server: Server) -> None:
    pull_fails("nothing to download for nanodet: got a model in bundled", "nanodet")
    pull_fails("Did you mean cars", "carss")
    own = folder_with(home / "mine", "cars.onnx")
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO, "eyas"):
        patch.setenv("EYAS_MODELS", str(own))
        store.pull("cars")
    assert caplog.messages[0].startswith(f"cars in {own} comes before")
    assert caplog.messages[1] == f"cars: licence MIT, {server.url}"


def test_remove_deletes_downloads_only(server: Server, manifest: Any, home: Path, tmp_path: Path) -> None:
    manifest(entry(url=server.url, card=CARD))
    with pytest.raises(ModelError, match=r"cars is not removed: got one in .*models.json; expected a downloaded model"):
        store.remove("cars")
    path = store.pull("cars")
    folder_with(path.parent, "hand.onnx", "cars-2.onnx")
    assert sorted(p.name for p in store.remove("cars")) == ["cars.json", "cars.onnx", "cars.sha256"]
    interrupted(server)
    assert len(store.remove("cars")) == 2
    assert left_in(path.parent) == ["cars-2.onnx", "hand.onnx"]
    for name, says in {"nanodet": "got a bundled model", "hand": "got one in ", "carz": "Did you mean cars"}.items():
        with pytest.raises(ModelError, match=says):
            store.remove(name)
    assert left_in(path.parent) == ["cars-2.onnx", "hand.onnx"]
    assert BUNDLED.exists()


# The command


@pytest.fixture
def eyas(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """eyas("pull", "cars") → standard output of `eyas models pull cars`."""
    top = argparse.ArgumentParser()
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-q", "--quiet", action="store_true")
    common.add_argument("-v", "--verbose", action="store_true")
    models.add(top.add_subparsers(), common)

    def run(*words: str) -> str:
        args = top.parse_args(["models", *words])
        assert args.quiet == ("-q" in words)
        assert not args.verbose
        capsys.readouterr()
        assert args.run(args) == 0
        return capsys.readouterr().out

    return run


def test_the_list(eyas: Any, server: Server, manifest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = manifest(entry(url=server.url, about="finds cars"), entry(name="nanodet", bytes=3_000_000))
    monkeypatch.setenv("EYAS_MODELS", str(folder_with(tmp_path / "m", "mine.onnx", content=bytes(50_000))))
    before = eyas()
    assert [re.split("  +", line) for line in before.splitlines()] == [
        ["name", "where", "size", "licence"],
        ["nanodet", "bundled", f"{BUNDLED.stat().st_size / 1e6:.1f} MB", "Apache-2.0"],
        ["mine", str(tmp_path / "m"), "0.1 MB", "?"],
        ["cars", f"{own} (not downloaded)", "?", "MIT"],
        ["nanodet", f"{own} (not downloaded, shadowed)", "3.0 MB", "MIT"],
    ]
    assert eyas("list") == eyas("-q", "list") == eyas("list", "-q") == before
    store.pull("cars")
    (row,) = [row for row in json.loads(eyas("--format", "json", "list")) if row["name"] == "cars"]
    assert row == {
        "name": "cars",
        "kind": "manifest",
        "place": str(own),
        "path": str(store.download_folder() / "cars.onnx"),
        "downloaded": True,
        "outdated": False,
        "shadowed": False,
        "size_bytes": len(CONTENT),
        "licence": "MIT",
        "about": "finds cars",
        "url": server.url,
        "sha256": SHA256,
    }
    assert eyas("list", "--format", "json") == eyas("--format", "json")
    own.unlink()
    assert re.search(r"cars +\S+ \(downloaded\) +0.5 MB +\?", eyas())


def test_pull_path_and_remove(eyas: Any, server: Server, tmp_path: Path) -> None:
    path = store.download_folder() / "cars.onnx"
    assert eyas("pull", "cars", "-q") == f"{path}\n"
    assert eyas("path", "cars") == f"{path}\n"
    assert eyas("path", "nanodet") == f"{BUNDLED}\n"
    assert eyas("pull", "cars", "--to", str(tmp_path)) == f"{tmp_path / 'cars.onnx'}\n"
    assert eyas("remove", "cars") == f"{path}\n{path.with_suffix('.sha256')}\n"
    assert not path.exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("quiet", "shows"), [((), True), (("-q",), False)])
def test_a_terminal_gets_a_bar(
    quiet: tuple[str, ...], shows: bool, eyas: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    eyas("pull", "cars", *quiet)
    assert ("cars" in screen.getvalue()) == shows
