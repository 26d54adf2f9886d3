from typing import Any

def read_fields(
    message: bytes, begin: int, table: bytes, *, is_strict: bool = False
) -> list[Any]: ...
