"""The compiled hot path: key codec, record building and the pending batch, the fold of a run, the
hot frames of the worker stream, chosen fields of a payload.

Importing this package proves that the extensions are built. There is no slow fallback: the plain
twins under tests/twins are the specification, not a substitute.
"""

from __future__ import annotations

try:
    from engine.ext import append, fields, frames, offsets, protobuf, replay
except ImportError as missing:
    raise ImportError(
        f"the compiled extensions of durable-engine are not built ({missing}). "
        "From a checkout run `make build`; otherwise reinstall the package on a machine with gcc."
    ) from missing

__all__ = ["append", "fields", "frames", "offsets", "protobuf", "replay"]
