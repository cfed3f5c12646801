"""Person re-identification: one vector a cut-out person, who stands in a tall picture.

Output [B, D]. Input: stretched to height : width = 2 : 1 or 3 : 1. Channels first: RGB with ImageNet's mean and
deviation, as torchreid and FastReID export. Channels last: BGR, 0…255, as Intel's person-reidentification-retail.
"""

from __future__ import annotations

from eyas.families import IMAGENET, Guess
from eyas.families.arcface import decode as decode
from eyas.graph.network import Facts
from eyas.types import Normalise


def recognise(facts: Facts) -> list[Guess]:
    """One vector from a tall picture."""
    shapes = list(facts.outputs.values())
    height, width = facts.size
    vector = len(shapes) == 1 and len(shapes[0]) == 2 and isinstance(shapes[0][1], int)
    if height not in (2 * width, 3 * width) or not vector:
        return []
    normalise = Normalise("bgr") if facts.channels_last else IMAGENET
    return [Guess(None, normalise, "stretch", pad_value=0, task="embed", names=())]
