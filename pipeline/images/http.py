"""GET requests that end in time, and only where they were meant to lead."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

from pipeline.errors import ImageSourceError

# httpx itself would do but for two things: it waits anew for each piece of a reply, so a server
# that drips never ends, and it connects to whatever a name stands for at that moment.


class GuardedHttp:
    """Sends requests over connections that it keeps open for a while. Threads may share one.

    A proxy that the environment names (``HTTPS_PROXY`` and the like) is used; what a name stands
    for is then for the proxy to judge.

    Args:
        allow_private: whether a name may stand for an address of a private network.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._rules = _Rules()
        self._network = _Network(self._rules, allow_private)
        self._pools: dict[tuple[str, str], httpcore.ConnectionPool] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections kept open."""
        for pool in self._pools.values():
            pool.close()

    @contextmanager
    def get(
        self, url: httpx.URL, headers: Mapping[str, str], *, deadline: float, anywhere: bool
    ) -> Iterator[httpcore.Response]:
        """The reply to ``GET url``; its body comes as the server sends it, and is not yet read.

        Args:
            deadline: by ``time.monotonic``, when all must be over, the reading included.
            anywhere: whether the host may be in any network, for it is of the settings.

        Raises:
            httpcore.TimeoutException: the deadline passed.
            httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError: no reply.
            ImageSourceError: the host's name stands for an address that it may not stand for.
        """
        proxy = urllib.request.getproxies().get(url.scheme, "")
        if urllib.request.proxy_bypass(url.host) or not proxy.startswith(("http://", "https://")):
            proxy = ""
        pool = self._pool(url.scheme, proxy)
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        self._rules.deadline, self._rules.anywhere = deadline, anywhere or bool(proxy)
        with pool.stream("GET", target, headers=list(headers.items())) as response:
            yield response

    def _pool(self, scheme: str, proxy: str) -> httpcore.ConnectionPool:
        """Made when first needed: reading the certificates for https takes its time."""
        with self._lock:
            if (scheme, proxy) not in self._pools:
                options: dict[str, Any] = {
                    "network_backend": self._network,
                    "max_connections": None,
                    "keepalive_expiry": 5.0,
                }
                if scheme == "https":
                    options["ssl_context"] = httpx.create_ssl_context()
                if proxy:
                    named = httpx.Proxy(proxy)
                    options["proxy"] = httpcore.Proxy(str(named.url), auth=named.raw_auth)
                self._pools[scheme, proxy] = httpcore.ConnectionPool(**options)
            return self._pools[scheme, proxy]


class _Rules(threading.local):
    """What holds for the request that a thread makes."""

    deadline = 0.0
    anywhere = False

    def left(self) -> float:
        """Seconds until the deadline. Raises httpcore.ReadTimeout when none are left."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("The time is over.")
        return left


class _Network(httpcore.NetworkBackend):
    """Connects to the address that was checked, so that no second look-up can differ."""

    def __init__(self, rules: _Rules, allow_private: bool) -> None:
        self._rules = rules
        self._allow_private = allow_private
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} stands for no address") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            self._check(host, address)
        for number, address in enumerate(addresses, start=1):
            try:
                stream = self._plain.connect_tcp(
                    address, port, self._rules.left(), local_address, socket_options
                )
                return _Stream(stream, self._rules)
            except httpcore.ConnectError:
                if number == len(addresses):
                    raise
        raise httpcore.ConnectError(f"{host} stands for no address")

    def _check(self, host: str, address: str) -> None:
        """Raises ImageSourceError unless ``host`` may stand for ``address``."""
        if self._rules.anywhere or host in (address, "localhost"):
            return
        found = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address):
            found = found.ipv4_mapped or found
        # Link-local holds the clouds' servers of passwords: nobody keeps pictures there.
        if found.is_global or (
            self._allow_private and found.is_private and not found.is_link_local
        ):
            return
        raise ImageSourceError(
            f"The host {host} stands for {found}, an address of a private network; set "
            "images.allow_private if your own network keeps images, else take the host off "
            "images.allowed_hosts."
        )


class _Stream(httpcore.NetworkStream):
    """A connection on which each wait is for what is left of the whole time."""

    def __init__(self, stream: httpcore.NetworkStream, rules: _Rules) -> None:
        self._stream = stream
        self._rules = rules

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._rules.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._rules.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._rules.left())
        return _Stream(stream, self._rules)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
