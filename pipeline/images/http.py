"""GET requests that end before a deadline and connect only to addresses that are allowed."""

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

# httpx alone is not enough, for two reasons. Its timeout starts again with each piece of a reply,
# so a server that sends slowly could keep a request open for ever. And it connects to whatever
# address a name resolves to at that moment.

KEEPALIVE_SECONDS = 5.0  # for which an idle connection stays open


# Never allowed, not even as private: no picture is there, but clouds keep credentials there.
NEVER = (
    ipaddress.ip_network("169.254.0.0/16"),  # link-local
    ipaddress.ip_network("fe80::/10"),
    ipaddress.ip_network("fd00:ec2::/32"),  # Amazon's services over IPv6
    ipaddress.ip_network("192.0.0.0/24"),  # Oracle's services; reserved for protocols
)
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class GuardedHttp:
    """Sends requests over connections that it keeps open for a while. Threads may share one.

    A proxy that the environment names (``HTTPS_PROXY`` and the like) is used. The proxy then
    resolves the names, and its rules decide which addresses are allowed.

    Args:
        allow_private: whether a name may resolve to an address of a private network.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._rules = _Rules()
        self._network = _Network(self._rules, allow_private)
        self._pools: dict[tuple[str, str], httpcore.ConnectionPool] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections that are kept open."""
        for pool in self._pools.values():
            pool.close()

    @contextmanager
    def get(
        self, url: httpx.URL, headers: Mapping[str, str], *, deadline: float, anywhere: bool
    ) -> Iterator[httpcore.Response]:
        """The reply to ``GET url``; its body comes as the server sends it, and is not yet read.

        Args:
            deadline: time of ``time.monotonic`` by which all must be done, the reading included.
            anywhere: whether the host may be in any network, because the settings name it.

        Raises:
            httpcore.TimeoutException: the deadline passed.
            httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError: there is no reply.
            ImageSourceError: the host's name resolves to an address that is not allowed.
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
        """A pool, made when first needed because reading the certificates for https takes time."""
        with self._lock:
            if (scheme, proxy) not in self._pools:
                options: dict[str, Any] = {
                    "network_backend": self._network,
                    "max_connections": None,
                    "keepalive_expiry": KEEPALIVE_SECONDS,
                }
                if scheme == "https":
                    options["ssl_context"] = httpx.create_ssl_context()
                if proxy:
                    named = httpx.Proxy(proxy)
                    options["proxy"] = httpcore.Proxy(str(named.url), auth=named.raw_auth)
                self._pools[scheme, proxy] = httpcore.ConnectionPool(**options)
            return self._pools[scheme, proxy]


class _Rules(threading.local):
    """The rules for the request that the current thread makes."""

    deadline = 0.0
    anywhere = False

    def left(self) -> float:
        """Seconds until the deadline. Raises httpcore.ReadTimeout when none are left."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("The time limit has passed.")
        return left


class _Network(httpcore.NetworkBackend):
    """Connects to the address that was checked; a second look-up could give another one."""

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
            raise httpcore.ConnectError(f"{host} has no address") from error
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
        raise httpcore.ConnectError(f"{host} has no address")

    def _check(self, host: str, address: str) -> None:
        """Raises ImageSourceError unless ``host`` may resolve to ``address``."""
        if self._rules.anywhere or host in (address, "localhost"):
            return
        found = _reached(ipaddress.ip_address(address.partition("%")[0]))
        never = any(found in network for network in NEVER if network.version == found.version)
        if not never and (found.is_global or (self._allow_private and found.is_private)):
            return
        raise ImageSourceError(
            f"The host {host} resolves to {found}, an address of a private network; set "
            "images.allow_private if your own network holds images, else remove the host from "
            "images.allowed_hosts."
        )


def _reached(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 address leads to, if it only wraps one; else the address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else address)


class _Stream(httpcore.NetworkStream):
    """A connection on which each operation may take only the time left until the deadline."""

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
