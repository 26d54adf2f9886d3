"""What a component may be called, for who registers one and for the code that declares it.

Names stand in URLs, on the command line and on people's screens: nothing that ends a word there,
nothing that cannot be seen, and nothing that changes how the rest of a line is read.
"""

from __future__ import annotations

from typing import Final

from engine.base.limits import component_name_length_max

COMPONENT_NAME_RULE: Final = (
    f"use 1 to {component_name_length_max} characters that can be seen, without spaces and slashes"
)
_SLASHES: Final = frozenset("/\\")


def is_component_name(text: str) -> bool:
    # What is not printable: controls old and new, marks of direction, what has no width or no
    # character yet, and every space but one.
    return (
        0 < len(text) <= component_name_length_max
        and text.isprintable()
        and " " not in text
        and _SLASHES.isdisjoint(text)
    )
