"""Damage: pure functions of a random generator and bytes, so that a seed is enough to make every body again."""

import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random

Mutation = Callable[[Random, bytes, Sequence[bytes]], bytes]
_WORDS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80")
_TOKENS = (b"[", b"{", b"}", b'"', b"null", b"-1", b"1e999", b"NaN", b"\0", b"\r\n", b"--", b"\xff\xd8", b"IDAT")
_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = 64  # bytes in which every image format says how large it is
_MOST = 4  # damages of one body


def truncated(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """The beginning."""
    return data[: rng.randrange(len(data) + 1)]


def flipped(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Some bits the other way round."""
    copy = bytearray(data)
    for _bit in range(rng.choice((1, 2, 8, 64))):
        copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
    return bytes(copy)


def flipped_in_header(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """A bit of the first bytes."""
    copy = bytearray(data)
    copy[rng.randrange(min(_HEADER, len(copy)))] ^= 1 << rng.randrange(8)
    return bytes(copy)


def overwritten(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """A number that is a limit of something, anywhere; most often in front."""
    at = rng.randrange(min(len(data), rng.choice((_HEADER, len(data)))))
    word = rng.choice(_WORDS) if rng.random() < 0.7 else struct.pack("<I", rng.randrange(2**32))
    return data[:at] + word + data[at + len(word) :]


def spliced(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The beginning of one body and the end of another."""
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def without_a_piece(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """A hole."""
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 4, 100, 4000)) :]


def with_a_piece_twice(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """A piece again."""
    at = rng.randrange(len(data))
    return data[:at] + data[at : at + rng.choice((1, 4, 100, 4000))] + data[at:]


def inserted(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Something that means something in one of the formats."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(_TOKENS) + data[at:]


MUTATIONS: tuple[Mutation, ...] = (
    truncated,
    flipped,
    flipped_in_header,
    overwritten,
    spliced,
    without_a_piece,
    with_a_piece_twice,
    inserted,
)


def damaged(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to four damages, most often one.

    Args:
        rng: decides everything.
        data: what is damaged, not empty.
        others: what may be spliced in.
    """
    for _ in range(rng.choice((1, 1, 1, 2, _MOST))):
        if data:
            data = rng.choice(MUTATIONS)(rng, data, others)
    # Readers of PNG look at checksums first, and would see nothing of most damages.
    return with_right_checksums(data) if data.startswith(_PNG) and rng.random() < 0.7 else data


def with_right_checksums(png: bytes) -> bytes:
    """A PNG whose chunks say of themselves that they are whole, as far as they can be told apart."""
    copy, at = bytearray(png), len(_PNG)
    while at + 12 <= len(copy):
        end = at + 8 + int.from_bytes(copy[at : at + 4], "big")
        if end + 4 > len(copy):
            break
        copy[end : end + 4] = struct.pack(">I", zlib.crc32(copy[at + 4 : end]))
        at = end + 4
    return bytes(copy)
