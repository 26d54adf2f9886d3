"""The certificate of a runtime: read from its two files, once, when the process starts.

Both doors use the same one. Knows no door; which protocols are spoken inside is theirs to say.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from engine.base.errors import InvalidSettings


def check_pair(certificate: str, key: str) -> None:
    """Both or neither, for msgspec: a ValueError names the setting that is missing."""
    if bool(certificate) != bool(key):
        missing, given = (
            ("tls_key", "tls_certificate")
            if certificate
            else (
                "tls_certificate",
                "tls_key",
            )
        )
        raise ValueError(f"`{missing}` is missing: TLS needs it beside `{given}`")


def server_context(certificate: str, key: str, protocols: Sequence[str]) -> ssl.SSLContext | None:
    """None where no certificate is set: the door is plain."""
    if not certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(protocols))
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidSettings(
            f"the certificate {certificate} with the key {key} cannot be used: "
            f"{error.strerror or error}; tls_certificate is the chain and tls_key its private key, "
            "both in PEM form, and the key has no password",
            setting="tls_certificate",
        ) from error
    return context
