"""What a tracker's output is worth against known tracks: HOTA, CLEAR MOT and identity figures.

Computed by `trackers.eval` (extra `track`), which follows TrackEval. Sources: Luiten et al., "HOTA: A Higher Order
Metric for Evaluating Multi-Object Tracking", 2021; Bernardin and Stiefelhagen, "Evaluating Multiple Object Tracking
Performance: The CLEAR MOT Metrics", 2008; Ristani et al., "Performance Measures and a Data Set for Multi-Target,
Multi-Camera Tracking", 2016.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eyas.errors import DataError, problem
from eyas.extras import need
from eyas.tracking.mot import MotTable


@dataclass(frozen=True, slots=True)
class Scores:
    """Shares lie in 0…1, but mota, which has no lower end. hota, deta, assa: means over IoU 0.05 … 0.95; all else at
    the IoU of `score`.

    hota: geometric mean of deta (are objects found?) and assa (do tracks stay with them?). mota: 1 − (false + missed +
    switches) / objects. motp: mean IoU of matches. idf1: F1 of boxes with the right identity, idp and idr its precision
    and recall. id_switches, fragments: how often an object's track changes, or breaks off and goes on. mostly_tracked,
    mostly_lost: objects found in over 80%, under 20% of their frames. matched, missed, false: boxes. objects and
    tracks: how many identities. frames: counted.
    """

    hota: float
    deta: float
    assa: float
    mota: float
    motp: float
    idf1: float
    idp: float
    idr: float
    id_switches: int
    fragments: int
    mostly_tracked: int
    mostly_lost: int
    matched: int
    missed: int
    false: int
    objects: int
    tracks: int
    frames: int


def score(truth: MotTable, result: MotTable, iou: float = 0.5) -> Scores:
    """Compare tracks with the truth, frame by frame; frames that only one of both has count too.

    Rows of `truth` with confidence 0 are left out, as the MOT Challenge does. Its distractor classes (MOT16 and newer)
    are not taken care of: official figures come from its own kit. Raises DataError for rows without an id, and where
    there is no truth; EyasError without the extra `track`.
    """
    return score_sequences([(truth, result)], iou)


def score_sequences(pairs: Iterable[tuple[MotTable, MotTable]], iou: float = 0.5) -> Scores:
    """All sequences' (truth, result) as one: counts are added before any share is taken."""
    api = need("trackers.eval", "track")
    true_ids: list[NDArray[np.int64]] = []
    ids: list[NDArray[np.int64]] = []
    overlaps: list[NDArray[np.float64]] = []
    objects = tracks = 0
    for truth, result in pairs:
        truth = truth.where(truth.confidence != 0)
        numbers, found_numbers = (_numbered(table, name) for table, name in ((truth, "truth"), (result, "result")))
        for frame in np.union1d(truth.frame, result.frame).tolist():
            a, b = (slice(*np.searchsorted(t.frame, [frame, frame + 1])) for t in (truth, result))
            true_ids.append(numbers[a] + objects)
            ids.append(found_numbers[b] + tracks)
            overlaps.append(api.box_iou(truth.xywh[a], result.xywh[b], box_format="xywh"))
        objects += int(numbers.max(initial=-1)) + 1
        tracks += int(found_numbers.max(initial=-1)) + 1
    if not objects:
        raise DataError(
            problem("there is nothing to compare with", got="no object in the truth", expected="rows", remedy="")
        )
    hota = api.compute_hota_metrics(true_ids, ids, overlaps)
    clear = api.compute_clear_metrics(true_ids, ids, overlaps, iou)
    identity = api.compute_identity_metrics(true_ids, ids, overlaps, iou)
    return Scores(
        hota=hota["HOTA"],
        deta=hota["DetA"],
        assa=hota["AssA"],
        mota=float(clear["MOTA"]),
        motp=float(clear["MOTP"]),
        idf1=identity["IDF1"],
        idp=identity["IDP"],
        idr=identity["IDR"],
        id_switches=clear["IDSW"],
        fragments=clear["Frag"],
        mostly_tracked=clear["MT"],
        mostly_lost=clear["ML"],
        matched=clear["CLR_TP"],
        missed=clear["CLR_FN"],
        false=clear["CLR_FP"],
        objects=objects,
        tracks=tracks,
        frames=len(ids),
    )


def _numbered(table: MotTable, name: str) -> NDArray[np.int64]:
    """Ids from 0 without gaps."""
    if (table.track_id < 0).any():
        what, expected = f"the {name} has boxes without a track", "an id from 0 in each row"
        remedy = "These are detections; run a tracker on them."
        raise DataError(problem(what, got="id -1", expected=expected, remedy=remedy))
    return np.unique(table.track_id, return_inverse=True)[1].astype(np.int64)
