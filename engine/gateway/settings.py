"""The gateway's settings and the bounds they must keep.

Everything that a client could make grow has its bound here.
"""

from __future__ import annotations

import base64
import os
from typing import Annotated, Final, Literal

import msgspec

from engine.base.limits import KIB, MIB, input_bytes_max, name_length_max

head_bytes_max: Final = 16 * KIB  # of a request; Hypercorn's h11 is told the same
http2_streams_max: Final = 16  # open at once on a connection; the answers of all may wait in memory
query_parameters_max: Final = 64
tags_max: Final = 64
tag_bytes_max: Final = 512
page_entries_max: Final = 1_000
analytics_rows_max: Final = 10_000
# Objects that a query had to leave out, as a header of an answer that has no other place for them.
skipped_shown_max: Final = 20
skipped_characters_max: Final = 200
# An unread body of at most this is read and dropped, so that the connection can be kept.
drop_bytes_max: Final = 64 * KIB
# How long a connection that is closed with its request half read stays, so that the client sees
# the answer and not a reset.
linger_s_max: Final = 2.0
# Starts are committed this many at a time; more would hold up everybody else's requests.
batch_chunk_starts_max: Final = 512
# Of one body, which is looked at in one go; a body of lines may have more.
batch_inputs_max: Final = 10_000
batch_chunk_bytes_max: Final = 1 * MIB
# And so much of a batch that was stopped, by who does not read the answer before it has sent all.
batch_drop_bytes_max: Final = 256 * MIB
# What has come of request bodies waits in memory for the rest: all of them together hold this much
# at most, those of one tenant a quarter of it, and so do those of all who need no key (webhooks).
bodies_bytes_max: Final = 256 * MIB
bodies_share_bytes_max: Final = 64 * MIB
bodies_peer_bytes_max: Final = 16 * MIB  # of who needs no key, from one address
rate_keys_max: Final = 10_000
# More than a core answers (of /healthz, which asks nobody anything, 4,500 a second were had from
# two cores together with their client): no work of one tenant comes to it, and a flood does.
requests_per_s_of_core: Final = 5_000


def cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0))


Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A door for somebody else's server, under `/v1/webhooks/{name}`: its signed body starts a run
    or signals one."""

    name: str
    secret: Annotated[str, msgspec.Meta(min_length=16)]
    project_id: str = "default"
    tenant_id: str
    deployment_id: str = "default"
    # `standard`: the headers webhook-id, webhook-timestamp, webhook-signature (Standard Webhooks).
    # `hub`: X-Hub-Signature-256, as GitHub sends it.
    scheme: Literal["standard", "hub"] = "standard"
    # What it does: start this component with the body as its input ...
    component: str = ""
    # ... or send this signal with the body as its payload, to the run whose id is at
    # `run_id_path` in the body (`data.object.metadata.run_id`).
    signal: str = ""
    run_id_path: str = "run_id"

    def __post_init__(self) -> None:
        if bool(self.component) == bool(self.signal):
            raise ValueError(f"webhook {self.name!r} needs a component or a signal, and not both")
        if self.secret.startswith("whsec_"):
            base64.b64decode(self.secret.removeprefix("whsec_"), validate=True)


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the HTTP door behaves; the defaults suit one server for its own network."""

    deployment_default: Annotated[str, msgspec.Meta(min_length=1, max_length=name_length_max)] = (
        "default"
    )
    body_bytes_max: Annotated[int, msgspec.Meta(ge=1, le=input_bytes_max)] = input_bytes_max
    batch_body_bytes_max: Positive = 64 * MIB
    batch_lines_max: Positive = 100_000
    connections_max: Positive = 10_000
    # From one address; 0: half of all. Behind a proxy everybody comes from one.
    connections_per_peer_max: Annotated[int, msgspec.Meta(ge=0)] = 0
    keep_alive_s: Seconds = 75.0
    read_stall_s_max: Seconds = 30.0  # a request that was begun has to go on
    write_stall_s_max: Seconds = 60.0  # and so has a reader of an answer
    # Going on is not enough: a body, or a large answer, has this long (an answer: the time above),
    # and a second more for each so many of its bytes. One of 2 MiB is here after 188 s or refused.
    body_patience_s: Seconds = 60.0
    body_bytes_per_s_min: Positive = 16 * KIB
    sweep_s: Seconds = 1.0  # how often all connections are looked at
    graceful_stop_s: Seconds = 10.0
    heartbeat_s: Seconds = 15.0  # a comment into an event stream that has nothing to say
    result_wait_s_max: Seconds = 600.0
    # A tenant that comes more often than this is told when to come again; 0: no limit. If nothing
    # is said, as many as this machine might answer, were it asked for nothing else.
    requests_per_s_max: Annotated[float, msgspec.Meta(ge=0)] = msgspec.field(
        default_factory=lambda: float(requests_per_s_of_core * cores())
    )
    requests_burst_max: Annotated[int, msgspec.Meta(ge=0)] = 0  # at once; 0: those of a second
    # Requests of one project that wait for a run or stream one; 0: no limit. By default a quarter
    # of the connections there may be.
    concurrency_per_project_max: Annotated[int, msgspec.Meta(ge=0)] = 2_500
    webhook_age_s_max: Seconds = 300.0
    webhooks: tuple[WebhookSettings, ...] = ()

    def __post_init__(self) -> None:
        names = [hook.name for hook in self.webhooks]
        if len(set(names)) != len(names):
            raise ValueError("two webhooks have one name; each needs its own")


assert batch_chunk_bytes_max <= 64 * MIB
assert bodies_bytes_max > bodies_share_bytes_max > bodies_peer_bytes_max >= 8 * input_bytes_max
