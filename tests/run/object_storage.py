# SPDX-License-Identifier: Apache-2.0
"""S3 as moto's server plays it, behind a relay that can cut what is sent to it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Relay:
    """
    Passes bytes on to a server, until so many have been sent to it.

    :ivar cut_after: Bytes of one connection after which it is cut; None lets all pass.
    """

    def __init__(self, port: int) -> None:
        self.cut_after: int | None = None
        self.seen: Callable[[bytes], None] = lambda data: None
        """Called with what a client sends, before it is passed on."""
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, may_cut: bool) -> None:
        sent = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sent += len(data)
                if may_cut:
                    self.seen(data)
                if may_cut and self.cut_after is not None and sent > self.cut_after:
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()


def attach_s3(port: int, kind: Any = None) -> Any:
    """
    Let Airflow's object storage find a server under ``s3://``, and return the file system.

    :param kind: Class of the file system; None for the library's own.
    """
    import s3fs
    from airflow.sdk.io import attach, store

    fs = (kind or s3fs.S3FileSystem)(
        key="test",
        secret="test",
        endpoint_url=f"http://127.0.0.1:{port}",
        skip_instance_cache=True,
        config_kwargs={"retries": {"max_attempts": 1}, "read_timeout": 5, "connect_timeout": 5},
    )
    fs.retries = 1
    # What is attached once is kept by its name for good, and the names of an earlier server lead nowhere.
    store._STORE_CACHE.clear()
    attach("s3", fs=fs)
    return fs


@contextlib.contextmanager
def served_s3(bucket: str) -> Iterator[Relay]:
    """Serve a bucket, and let Airflow's object storage find it under ``s3://``."""
    import requests
    from airflow.sdk.io import store
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    # All of moto's servers in one process share what they hold: each begins with nothing.
    requests.post(f"http://127.0.0.1:{server.get_host_and_port()[1]}/moto-api/reset", timeout=10).raise_for_status()
    relay = Relay(server.get_host_and_port()[1])
    attach_s3(relay.port).mkdir(bucket)
    try:
        yield relay
    finally:
        store._STORE_CACHE.clear()
        relay.close()
        server.stop()
