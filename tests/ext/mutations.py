"""Damage to records, keys and payloads, by seed: bits, bytes, lengths and what a field says of
itself. Knows where a record's header ends and nothing else of its meaning."""

from __future__ import annotations

from random import Random

HEADER_BYTES = 16

# What parsers trip over: the ends of varints, lengths near 2^31 and 2^63, groups, field number 0.
_NASTY = (
    b"\x00",
    b"\xff",
    b"\x80" * 9,
    b"\xff" * 9 + b"\x01",
    b"\xff" * 10,
    b"\xff\xff\xff\xff\x07",
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x0b\x0c",
    b"\x07",
    b"\xed\xa0\x80",
)


def mutated(random: Random, data: bytes) -> bytes:
    """One to four changes, anywhere."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        data = random.choice(_CHANGES)(random, data)
    return data


def mutated_record(random: Random, value: bytes) -> bytes:
    """Mostly the payload, since a damaged header is refused before anything is parsed."""
    if random.random() < 0.2:
        return mutated(random, value)
    return value[:HEADER_BYTES] + mutated(random, value[HEADER_BYTES:])


def _flip_a_bit(random: Random, data: bytes) -> bytes:
    flipped = bytearray(data or b"\x00")
    flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
    return bytes(flipped)


def _replace(random: Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    cut = random.choice((0, 0, 1, 1, 2, 9))
    return data[:at] + random.choice(_NASTY) + data[at + cut :]


def _insert_noise(random: Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + random.randbytes(random.randint(1, 6)) + data[at:]


def _cut_the_end(random: Random, data: bytes) -> bytes:
    return data[: random.randint(0, len(data))]


def _cut_out(random: Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + data[at + random.randint(0, 8) :]


def _repeat_a_part(random: Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + data[at : at + 20] * random.randint(2, 5) + data[at:]


def _noise(random: Random, data: bytes) -> bytes:
    return random.randbytes(random.randint(0, 40))


_CHANGES = (
    _flip_a_bit,
    _flip_a_bit,
    _replace,
    _replace,
    _insert_noise,
    _cut_the_end,
    _cut_out,
    _repeat_a_part,
    _noise,
)
