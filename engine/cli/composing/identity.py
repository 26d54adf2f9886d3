"""Who a request or a worker speaks for: API keys from the settings, or this machine itself.

Keys are compared by their digest, so that how long a comparison takes says nothing about a key.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import re
from collections.abc import Mapping
from typing import Final

from engine.base.errors import Unauthorized
from engine.base.ids import TenantId, project_id, tenant_id
from engine.config.settings import ApiKey, AuthSettings
from engine.coordinator.ports import Peer
from engine.model.context import AuthMode, RequestContext

_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]+))(?::[0-9]{1,5})?")
# What proxies tell of whom they ask for, beside the X-Forwarded headers.
_OF_PROXIES: Final = frozenset(
    {"forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"}
)


class Identity:
    def __init__(self, settings: AuthSettings) -> None:
        self._local = RequestContext(
            tenant_id(settings.tenant_id), project_id(settings.project_id), AuthMode.LOOPBACK
        )
        self._local_hosts = frozenset(host.lower() for host in settings.local_hosts)
        self._proxy_is_local = settings.proxy_is_local
        self._contexts = {_digest(key.key): _context(key) for key in settings.keys}

    def of_request(self, headers: Mapping[str, str], peer: str | None) -> RequestContext:
        given = headers.get("x-api-key") or _bearer(headers.get("authorization", ""))
        return self._of(given, is_local=not self._contexts and self._is_local(headers, peer))

    def of_worker(self, token: str, peer: Peer) -> TenantId:
        return self._of(token, is_local=peer.is_loopback).tenant_id

    def _is_local(self, headers: Mapping[str, str], peer: str | None) -> bool:
        return (
            peer is not None
            and _is_loopback(peer)
            and self._is_ours(headers.get("host", ""))
            and not _is_of_a_page(headers)
            and (self._proxy_is_local or not _is_passed_on(headers))
        )

    def _is_ours(self, authority: str) -> bool:
        """What a request is addressed to. A page whose name was made to point here is of one
        origin with us to its browser, which then says nothing of where the page is from."""
        host = _host_of(authority)
        return host == "localhost" or host in self._local_hosts or _is_loopback(host)

    def _of(self, given: str, *, is_local: bool) -> RequestContext:
        if not self._contexts:
            if is_local:
                return self._local
            raise Unauthorized(
                "this engine has no API keys and so answers this machine only, as localhost, and "
                "neither pages from elsewhere nor a proxy; add [[auth.keys]] to its settings to "
                "let others in"
            )
        found = self._contexts.get(_digest(given))
        if found is None:
            raise Unauthorized(
                "the API key is missing or not known; send it as `Authorization: Bearer sk_...`, "
                "as `X-API-Key`, or as the worker's token"
            )
        return found


def _is_of_a_page(headers: Mapping[str, str]) -> bool:
    """Any web page that is open on this machine can make its browser ask us. Without keys the
    browser's word for where the page came from is all that tells it from the user."""
    origin = headers.get("origin", "")
    if not origin:
        return headers.get("sec-fetch-site", "") == "cross-site"
    host = _host_of(origin.partition("://")[2])
    return host != "localhost" and not _is_loopback(host)


def _is_passed_on(headers: Mapping[str, str]) -> bool:
    """By a proxy, which is on this machine; who asked it need not be."""
    return any(name in _OF_PROXIES or name.startswith("x-forwarded") for name in headers)


def _host_of(authority: str) -> str:
    """In lower case, without brackets; empty if it is none."""
    found = _AUTHORITY.fullmatch(authority)
    return (found[1] or found[2]).lower() if found else ""


def _context(key: ApiKey) -> RequestContext:
    return RequestContext(
        tenant_id(key.tenant_id), project_id(key.project_id), AuthMode.API_KEY, key.user_id
    )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _bearer(header: str) -> str:
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


@functools.lru_cache(maxsize=1_024)
def _is_loopback(peer: str) -> bool:
    try:
        return ipaddress.ip_address(peer.partition("%")[0]).is_loopback
    except ValueError:
        return False
