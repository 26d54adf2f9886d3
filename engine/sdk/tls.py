"""How the SDK checks whom it talks to over `https://`: the certificates it trusts, and the name.

Trusted is what the system trusts, or what stands in the one file that is given. Names are always
verified; there is no switch to turn that off. Knows no stream and no request.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from engine.base.errors import InvalidEndpoint


def client_context(endpoint: str, ca_file: str | Path | None) -> ssl.SSLContext | None:
    """What a connection to this URL is made with; None for plain http://, which takes no time for
    loading certificates."""
    if not endpoint.lower().startswith("https://"):
        if ca_file is not None:
            raise InvalidEndpoint(
                f"ca_file is given and {endpoint!r} is not encrypted: write https://, or leave "
                "ca_file out",
                endpoint=endpoint,
            )
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidEndpoint(
            f"ca_file {str(ca_file)!r} cannot be used: {error}; it is a file of certificates in "
            "PEM form, such as the authority's that signed the engine's",
            endpoint=endpoint,
        ) from error
