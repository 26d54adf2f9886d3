"""Who a request is for. The doors make one context per request and pass it as an argument from
then on; there is no ambient tenant anywhere."""

from __future__ import annotations

import enum

import msgspec

from engine.base.ids import ProjectId, TenantId


class AuthMode(enum.StrEnum):
    SESSION = "session"
    API_KEY = "api_key"
    WEBHOOK = "webhook"
    LOOPBACK = "loopback"  # `engine dev` on the developer's own machine


class RequestContext(msgspec.Struct, frozen=True):
    tenant_id: TenantId
    project_id: ProjectId
    auth_mode: AuthMode
    user_id: str | None = None
