"""The Kalman filter of DeepSORT, for all tracks at once: a box moves at constant velocity, noise grows with its height.

Source: Wojke, Bewley, Paulus, "Simple Online and Realtime Tracking with a Deep Association Metric", 2017, section 2.1;
the noise of aspect ratios and of new tracks, which the paper leaves open, is that of its authors' implementation.

The paper's state has 8 entries: centre x, y, aspect ratio a = width / height, height h, and the velocity of each, in
units a step. Transition F = [[I, I], [0, I]], measurement H = [I, 0], and Q, R and the first covariance are diagonal.
So no coordinate ever becomes correlated with another: the 8 × 8 covariance is four 2 × 2 blocks

    [[p, c],      p variance of the coordinate, v of its velocity, c their covariance,
     [c, v]]

H P Hᵀ + R is the diagonal p + r, its inverse a division, and both steps are a few products for each coordinate.
`States` is float64 [5, N, 4]: coordinate, velocity, p, c, v of N tracks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
States = NDArray[np.float64]

GATE = 9.4877  # the 0.95 quantile of chi squared with 4 degrees of freedom, in squared Mahalanobis distance
LOWEST = 1e-3  # pixels: the height that noise is taken of, should a prediction shrink to nothing


def _deviations(share: float, aspect: float) -> Floats:
    """Standard deviations of (x, y, a, h): a share of the height but for the aspect ratio. [2, 4]: share, constant."""
    return np.array([[share, share, 0.0, share], [0.0, 0.0, aspect, 0.0]])


_POSITION, _VELOCITY = _deviations(1 / 20, 1e-2), _deviations(1 / 160, 1e-5)
_MEASURED = _deviations(1 / 20, 1e-1)


def _variance(deviations: Floats, xyah: Floats) -> Floats:
    share, constant = deviations
    deviation: Floats = np.maximum(xyah[:, 3:], LOWEST) * share + constant
    return deviation * deviation


def from_xyxy(xyxy: NDArray[np.floating]) -> Floats:
    """Corners [N, 4] to centre x, y, aspect ratio, height: float64 [N, 4]. Heights must not be 0."""
    xyah = np.empty((len(xyxy), 4))
    low, high = xyxy[:, :2], xyxy[:, 2:]
    xyah[:, :2] = (low + high) / 2
    xyah[:, 2:] = high - low
    xyah[:, 2] /= xyah[:, 3]
    return xyah


def to_xyxy(xyah: Floats) -> Floats:
    """The reverse of `from_xyxy`, of boxes [..., 4]; a side below 0 becomes 0."""
    half = np.maximum(xyah[..., 2:], 0)
    half[..., 0] *= half[..., 1]
    half /= 2
    xyxy = np.empty_like(xyah)
    np.subtract(xyah[..., :2], half, out=xyxy[..., :2])
    np.add(xyah[..., :2], half, out=xyxy[..., 2:])
    return xyxy


def begin(xyah: Floats) -> States:
    """New tracks at these boxes [N, 4], at rest: twice the position's noise, ten times the velocity's."""
    states = np.zeros((5, *xyah.shape))
    states[0] = xyah
    states[2] = _variance(2 * _POSITION, xyah)
    states[4] = _variance(10 * _VELOCITY, xyah)
    return states


def predict(states: States) -> States:
    """One step on: P becomes F P Fᵀ + Q, by blocks p + 2 c + v, c + v and v, and noise on p and v."""
    x, dx, p, c, v = states
    after = np.empty_like(states)
    after[0] = x + dx
    after[1] = dx
    after[2] = p + 2 * c + v + _variance(_POSITION, x)
    after[3] = c + v
    after[4] = v + _variance(_VELOCITY, x)
    return after


def update(states: States, xyah: Floats) -> States:
    """Each track with the box [N, 4] that was measured for it.

    The gain K = P Hᵀ S⁻¹ is (p, c) / s with s = p + r; P − K S Kᵀ is p − p²/s = p r/s, c − p c/s = c r/s, v − c²/s.
    """
    x, dx, p, c, v = states
    r = _variance(_MEASURED, x)
    s = p + r
    error, rest, gain = (xyah - x) / s, r / s, c / s
    after = np.empty_like(states)
    after[0] = x + p * error
    after[1] = dx + c * error
    after[2] = p * rest
    after[3] = c * rest
    after[4] = v - c * gain
    return after


def squared_mahalanobis(states: States, xyah: Floats) -> Floats:
    """How far each box [N, 4] is from where its track expects the measurement: float64 [N]."""
    x, p = states[0], states[2]
    error = xyah - x
    distance: Floats = (error * error / (p + _variance(_MEASURED, x))).sum(1)
    return distance


def spread(states: States) -> Floats:
    """Eight boxes x, y, a, h that stand for all that each track's box may be: float64 [8, N, 4].

    A mean over the Gaussian of the prediction is, nearly, the mean over them: they lie √4 standard deviations to either
    side along each of the 4 coordinates, all with the same weight (Arasaratnam and Haykin, "Cubature Kalman Filters",
    2009, the third-degree rule).
    """
    x, p = states[0], states[2]
    sides = np.concatenate([np.eye(4), -np.eye(4)])[:, None]
    boxes: Floats = x + 2 * np.sqrt(p) * sides
    return boxes
