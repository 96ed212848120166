"""A real S3 server (moto's, over HTTP on the loopback address), and a line to it that can be cut and counts bytes."""

from __future__ import annotations

import logging
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pyarrow.fs import LocalFileSystem, S3FileSystem, copy_files

BUCKET = "s3://bucket"
KEYS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


class Line:
    """Passes connections on to a port of this machine.

    Attributes:
        port: where it listens.
        cuts: so many connections more are cut, each when it has brought an answer of `after` bytes.
        down: whether it refuses every connection.
        brought: bytes of answers so far.
    """

    def __init__(self, target: int) -> None:
        self.cuts, self.after, self.brought, self.down = 0, 0, 0, False
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.down:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                passed += len(data)
                if answers:
                    self.brought += len(data)
                    if self.cuts and passed > self.after:
                        self.cuts -= 1
                        break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Server:
    """The server, its one bucket, and the line that readers use."""

    def __init__(self, port: int) -> None:
        self.line, self.port = Line(port), port
        self.files = S3FileSystem(
            endpoint_override=f"http://127.0.0.1:{port}",
            access_key=KEYS["AWS_ACCESS_KEY_ID"],
            secret_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            allow_bucket_creation=True,
        )
        self.files.create_dir("bucket")

    def put(self, path: str, data: bytes) -> str:
        """Writes an object; its URL."""
        with self.files.open_output_stream(f"bucket/{path}", compression=None) as stream:
            stream.write(data)
        return f"{BUCKET}/{path}"

    def put_folder(self, folder: Path, path: str) -> str:
        """Copies the files of a folder; their URL."""
        copy_files(
            str(folder), f"bucket/{path}", source_filesystem=LocalFileSystem(), destination_filesystem=self.files
        )
        return f"{BUCKET}/{path}"

    def admits(self, requests: str) -> None:
        """Answers so many requests more ("inf": all), then asks who somebody is, and knows nobody."""
        address, plain = f"http://127.0.0.1:{self.port}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(address, requests.encode(), plain)).close()


@contextmanager
def serving() -> Iterator[Server]:
    """The server, to which the environment's variables lead meanwhile."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    server = Server(moto.get_host_and_port()[1])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.line.port}"}.items():
            patch.setenv(name, value)
        try:
            yield server
        finally:
            server.line.close()
            moto.stop()
