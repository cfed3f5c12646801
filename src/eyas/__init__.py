"""eyas turns a trained vision network into one deploy graph and runs it fast on the hardware at hand.

    import eyas

    model = eyas.load("nanodet")
    print(model.predict("samples/chelsea.jpg"))

Importing eyas loads no runtime: names are fetched on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from eyas.annotate import draw
    from eyas.cascading import cascade
    from eyas.errors import (
        BackendError,
        BusyError,
        CardError,
        DataError,
        DeadlineError,
        EyasError,
        ImageError,
        ModelError,
        OptionError,
        SinkError,
        SourceError,
    )
    from eyas.letterbox import Letterbox
    from eyas.loading import load
    from eyas.pending import Pending, QueueSpec
    from eyas.predictor import Model
    from eyas.results import Classification, Detections, Embedding, Prediction
    from eyas.torch_module import TorchModule, from_torch
    from eyas.trace import tracing
    from eyas.types import BuildSpec, Frame, ModelCard, Normalise

_HOME = {
    "annotate": ("draw",),
    "cascading": ("cascade",),
    "errors": (
        "BackendError",
        "BusyError",
        "CardError",
        "DataError",
        "DeadlineError",
        "EyasError",
        "ImageError",
        "ModelError",
        "OptionError",
        "SinkError",
        "SourceError",
    ),
    "letterbox": ("Letterbox",),
    "loading": ("load",),
    "pending": ("Pending", "QueueSpec"),
    "predictor": ("Model",),
    "results": ("Classification", "Detections", "Embedding", "Prediction"),
    "torch_module": ("TorchModule", "from_torch"),
    "trace": ("tracing",),
    "types": ("BuildSpec", "Frame", "ModelCard", "Normalise"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "BackendError",
    "BuildSpec",
    "BusyError",
    "CardError",
    "Classification",
    "DataError",
    "DeadlineError",
    "Detections",
    "Embedding",
    "EyasError",
    "Frame",
    "ImageError",
    "Letterbox",
    "Model",
    "ModelCard",
    "ModelError",
    "Normalise",
    "OptionError",
    "Pending",
    "Prediction",
    "QueueSpec",
    "SinkError",
    "SourceError",
    "TorchModule",
    "cascade",
    "draw",
    "from_torch",
    "load",
    "tracing",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        return getattr(import_module(f"eyas.{_MODULE[name]}"), name)
    raise AttributeError(f"module 'eyas' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
