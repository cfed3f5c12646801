"""A street that was never filmed: walkers of known identity, hidden behind each other at times, and what a detector
would say of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eyas.results import Detections
from eyas.tracking.mot import MotTable

WIDTH, HEIGHT = 1280, 720


@dataclass(frozen=True)
class Scene:
    """truth: one row for each walker and frame; confidence 0 where too little of it is seen to be found."""

    truth: MotTable
    frames: list[Detections]


def street(
    seed: int = 0,
    walkers: int = 12,
    frames: int = 150,
    *,
    jitter: float = 0.02,
    missed: float = 0.03,
    false: float = 0.2,
    embedding: int = 0,
) -> Scene:
    """jitter: of each corner, as a share of the height. missed: share of visible walkers not found. false: boxes of
    nothing in a frame, on average. embedding: length of the vectors that go with detections, 0 for none."""
    rng, views = np.random.default_rng(seed), np.random.default_rng([seed, 1])  # embeddings change nothing else
    depth = rng.uniform(0.45, 1.0, walkers)  # 1 is nearest: tallest, lowest feet, fastest
    height = 0.55 * HEIGHT * depth
    width = height * rng.uniform(0.33, 0.42, walkers)
    feet = HEIGHT * (0.35 + 0.62 * depth)
    centre = rng.uniform(0, WIDTH, walkers)
    speed = rng.choice([-1, 1], walkers) * rng.uniform(2, 6, walkers) * depth
    looks = views.normal(size=(walkers, max(embedding, 1)))
    rows: list[NDArray[np.float64]] = []
    found: list[Detections] = []
    for frame in range(1, frames + 1):
        speed += rng.normal(0, 0.1, walkers)
        centre += speed
        speed = np.where((centre < 0) & (speed < 0) | (centre > WIDTH) & (speed > 0), -speed, speed)
        box = np.column_stack([centre - width / 2, feet - height, centre + width / 2, feet])
        seen = _share_seen(box, depth) > 0.4
        rows.append(np.column_stack([np.full(walkers, frame), np.arange(walkers), box, seen]))
        which = np.flatnonzero(seen & (rng.random(walkers) >= missed))
        boxes = box[which] + rng.normal(0, jitter, (len(which), 4)) * height[which, None]
        stray = _anywhere(rng, rng.poisson(false))
        vectors = looks[which] + 0.25 * views.normal(size=(len(which), looks.shape[1]))
        vectors = np.vstack([vectors, views.normal(size=(len(stray), looks.shape[1]))])
        confidence = np.concatenate([rng.uniform(0.7, 0.99, len(which)), rng.uniform(0.3, 0.6, len(stray))])
        found.append(_detections(np.vstack([boxes, stray]), confidence, vectors if embedding else None))
    table = np.vstack(rows)
    xywh = np.hstack([table[:, 2:4], table[:, 4:6] - table[:, 2:4]])
    return Scene(MotTable(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), xywh, table[:, 6]), found)


def _share_seen(box: NDArray[np.float64], depth: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of each box no nearer one covers, by 8 × 16 sample points."""
    u, v = np.meshgrid((np.arange(8) + 0.5) / 8, (np.arange(16) + 0.5) / 16)
    x = box[:, :1] + (box[:, 2:3] - box[:, :1]) * u.ravel()
    y = box[:, 1:2] + (box[:, 3:] - box[:, 1:2]) * v.ravel()
    hidden = np.zeros(x.shape, bool)
    for (x1, y1, x2, y2), near in zip(box, depth, strict=True):
        hidden |= (x > x1) & (x < x2) & (y > y1) & (y < y2) & (depth < near)[:, None]
    return 1 - hidden.mean(axis=1)


def _anywhere(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    low = rng.uniform(0, 0.8, (count, 2)) * [WIDTH, HEIGHT]
    return np.hstack([low, low + rng.uniform(30, 120, (count, 2))])


def _detections(
    boxes: NDArray[np.float64], confidence: NDArray[np.float64], vectors: NDArray[np.float64] | None
) -> Detections:
    order = np.argsort(-confidence)
    if vectors is not None:
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[order].astype(np.float32)
    return Detections(
        boxes[order].astype(np.float32),
        confidence[order].astype(np.float32),
        np.zeros(len(order), np.int64),
        ("person",),
        embedding=vectors,
    )
