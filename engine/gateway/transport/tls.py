"""TLS in front of the gateway: what is behind it reads and writes plain bytes.

An encrypted connection is two tasks that carry bytes between the client's socket and one end of a
pair; the other end is served like any connection. That costs two copies, and leaves the path of
plain requests, and the server that takes the rest, without a second kind of socket. A client that
does not finish its handshake is one that does not send its request, and is treated as such.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from typing import Final

import trio

_CHUNK_BYTES: Final = 64 * 1024
# For the last words of a connection that ends in order.
_GOODBYE_S: Final = 1.0

_log: Final = logging.getLogger(__name__)


def behind_tls(
    sock: socket.socket, context: ssl.SSLContext, nursery: trio.Nursery
) -> socket.socket:
    """The socket to serve in the place of this one; closing it ends the connection."""
    near, far = socket.socketpair()
    nursery.start_soon(_carry, sock, far, context)
    return near


async def _carry(sock: socket.socket, far: socket.socket, context: ssl.SSLContext) -> None:
    sock.setblocking(False)
    far.setblocking(False)
    wire = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    client = trio.SSLStream(wire, context, server_side=True, https_compatible=True)
    gateway = trio.SocketStream(trio.socket.from_stdlib_socket(far))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_carry_in, client, gateway)
            await _carry_out(gateway, client)
            nursery.cancel_scope.cancel()
    except* (trio.BrokenResourceError, trio.ClosedResourceError, ssl.CertificateError) as group:
        _log.debug("an encrypted connection ended: %r", group.exceptions)
    finally:
        gateway.socket.close()
        with (
            contextlib.suppress(trio.BrokenResourceError),
            trio.move_on_after(_GOODBYE_S, shield=True),
        ):
            await client.aclose()
        wire.socket.close()


async def _carry_in(client: trio.SSLStream[trio.SocketStream], gateway: trio.SocketStream) -> None:
    while data := await client.receive_some(_CHUNK_BYTES):
        await gateway.send_all(data)
    await gateway.send_eof()


async def _carry_out(gateway: trio.SocketStream, client: trio.SSLStream[trio.SocketStream]) -> None:
    """Until the gateway has closed its end."""
    while data := await gateway.receive_some(_CHUNK_BYTES):
        await client.send_all(data)
