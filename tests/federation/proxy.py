"""A wire that can be cut: a TCP proxy on loopback."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Self

_CHUNK, _LOOK_SECONDS = 65536, 0.05


class Proxy:
    """Forwards what comes to a port of its own; a context manager that ends it.

    Args:
        port: on loopback, where to.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._flows, self._over = threading.Event(), threading.Event()
        self._flows.set()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listen(0)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._flows.set()
        self.drop()
        for thread in list(self._threads):
            thread.join()

    def cut(self) -> None:
        """Forward nothing from now on; connections stay open, as when a cable is pulled."""
        self._flows.clear()

    def mend(self) -> None:
        """Forward again, what has been held back first."""
        if self._listener.fileno() < 0:
            self._listen(int(self.address.rpartition(":")[2]))
        self._flows.set()

    def drop(self) -> None:
        """Close every connection and take no new ones until it is mended, as a router does that is started anew."""
        self._listener.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _listen(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.settimeout(_LOOK_SECONDS)

    def _begin(self, target, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            if not self._flows.wait(_LOOK_SECONDS):
                continue
            with contextlib.suppress(OSError):  # nobody came, or it was closed
                self._begin(self._forward, self._listener.accept()[0])

    def _forward(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), socket.create_connection(self._target) as far:
            self._open += [near, far]
            while not self._over.is_set():
                self._flows.wait()
                for end in select.select([near, far], [], [], _LOOK_SECONDS)[0]:
                    chunk = end.recv(_CHUNK)
                    self._flows.wait()
                    if not chunk:
                        return
                    (far if end is near else near).sendall(chunk)
