"""A face detector and an embedder joined: every face that is found carries its vector."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import replace

import numpy as np

from eyas.cascading import Crop, Join, cascade
from eyas.errors import DataError, OptionError, SourceError, problem
from eyas.faces.align import SIDE, align
from eyas.predictor import Model, Single
from eyas.results import Detections, Embedding, Floats, Prediction, Result
from eyas.source import is_single
from eyas.types import Frame, Image

CONFIDENCE = 0.5


class Recogniser:
    """Finds faces and embeds them. It borrows both models: whoever opened them closes them."""

    def __init__(self, detector: Model, embedder: Model) -> None:
        """detector: a model with five key points a face; embedder: one that takes aligned faces. Raises OptionError."""
        _check_task("detector", detector, "pose", "a face detector with key points (scrfd, retinaface, yunet)")
        _check_task("embedder", embedder, "embed", "a face embedder (arcface)")
        height, width = embedder.card.input_size
        if height != width:
            what, got = "the embedder does not take faces", f"family {embedder.card.family}, input {height} × {width}"
            remedy = "Vectors of whole persons (reid) come from the model itself: Model.predict."
            raise OptionError(problem(what, got=got, expected="a square input", remedy=remedy))
        self.detector, self.embedder = detector, embedder

    def stream(
        self, sources: Single | Iterable[Single], *, conf: float = CONFIDENCE
    ) -> Generator[Prediction, None, None]:
        """As `Model.stream`: Detections with `embedding` float32 [N, D], None where there is no face.

        conf: of the detector, 0…1. Raises OptionError where the detector's key points are not five.
        """
        faces = _checked(self.detector.stream(sources, conf=conf))
        return cascade(faces, self.embedder, *face_vectors(self.embedder.card.input_size[0]))

    def embed(self, source: Single, *, conf: float = CONFIDENCE) -> Embedding:
        """The vector of the largest face of one picture. Raises DataError where there is none, or ImageError."""
        if not is_single(source):
            remedy = "`stream` goes through many."
            raise SourceError(problem("embed takes one picture", got=source, expected="a picture", remedy=remedy))
        (prediction,) = self.stream(source, conf=conf)
        if prediction.error:
            raise prediction.error
        faces = prediction.detections
        if faces is None or faces.embedding is None or not len(faces):
            raise no_face(prediction.source_id, conf)
        return Embedding(faces.embedding[largest(faces)])


def face_vectors(size: int = SIDE) -> tuple[Crop, Join]:
    """`crop` and `join` for `eyas.cascading`: faces turned upright, and their vectors as `embedding` float32 [N, D].

    size: the side of the embedder's input, in pixels. In the stream they raise OptionError where the objects have not
    five key points, where these are not a face's, and where the second model gives no vectors.
    """

    def crop(frame: Frame, faces: Detections) -> list[Image]:
        pixels = frame.pixels
        return [align(pixels, points, size) for points in _five_points(faces)]

    def join(faces: Detections, results: list[Result]) -> Detections:
        return replace(faces, embedding=np.stack([_vector(result) for result in results]))

    return crop, join


def _checked(predictions: Generator[Prediction, None, None]) -> Generator[Prediction, None, None]:
    """The same, once it is sure that they are of faces: also where a picture has none."""
    with closing(predictions):
        for prediction in predictions:
            if prediction.detections is not None:
                _five_points(prediction.detections)
            yield prediction


def _five_points(faces: Detections) -> Floats:
    """The key points [N, 5, 3]. Raises OptionError where there are not five an object."""
    count = 0 if faces.keypoints is None else faces.keypoints.shape[1]
    if faces.keypoints is None or count != 5:
        raise OptionError(
            problem(
                "the detector's key points are not a face's",
                got=f"{count} points an object",
                expected="5: eyes, nose, corners of the mouth",
                remedy="Take a face detector (scrfd, retinaface, yunet).",
            )
        )
    return faces.keypoints


def _vector(result: Result) -> Floats:
    if isinstance(result, Embedding):
        return result.vector
    got, remedy = type(result).__name__, "`eyas info MODEL` says what a model is taken for."
    raise OptionError(problem("the second model gives no vectors", got=got, expected="an embedder", remedy=remedy))


def largest(faces: Detections) -> int:
    """The row of the face with the largest box."""
    return int((faces.xyxy[:, 2:] - faces.xyxy[:, :2]).prod(axis=1).argmax())


def no_face(source_id: str, conf: float) -> DataError:
    """What is said of a picture without faces."""
    remedy = "Look at the picture, or lower --conf."
    return DataError(problem(f"no face in {source_id}", got=f"nothing over {conf}", expected="a face", remedy=remedy))


def _check_task(what: str, model: Model, task: str, expected: str) -> None:
    if model.card.task != task:
        raise OptionError(
            problem(
                f"the {what} is of another kind",
                got=f"family {model.card.family}, task {model.card.task}",
                expected=expected,
                remedy="`eyas info MODEL` says what a model is taken for.",
            )
        )
