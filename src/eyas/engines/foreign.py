"""Engines that others wrote: Ultralytics puts a length (4 bytes, little-endian, signed) and JSON before the plan."""

from __future__ import annotations

import json
from typing import Any

LONGEST = 1 << 20  # bytes of JSON


def split_prefixed(data: bytes) -> tuple[dict[str, Any], bytes] | None:
    """(metadata, plan), or None where the file does not begin like that."""
    length = int.from_bytes(data[:4], "little", signed=True)
    if not 2 <= length <= min(LONGEST, len(data) - 4) or data[4:5] != b"{":
        return None
    try:
        found = json.loads(data[4 : 4 + length])
    except (ValueError, RecursionError):
        return None
    return (found, data[4 + length :]) if isinstance(found, dict) else None
