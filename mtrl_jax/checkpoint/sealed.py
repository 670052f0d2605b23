"""JSON that tells a flipped bit: its own CRC-32 beside what it says."""

from __future__ import annotations

import json
import zlib
from typing import Any

_SEAL = "crc32"


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the content as JSON gives it back (lists, string keys), with its CRC-32."""
    plain = json.loads(json.dumps(content))
    return {**plain, _SEAL: _crc32(plain)}


def unseal(sealed: dict[str, Any]) -> dict[str, Any]:
    """Returns the content without its CRC-32.

    Raises:
      ValueError: there is no CRC-32, or it is of another content.
    """
    content = {name: x for name, x in sealed.items() if name != _SEAL}
    if sealed.get(_SEAL) != _crc32(content):
        raise ValueError("its description does not match its checksum")
    return content


def _crc32(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
