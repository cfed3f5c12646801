"""What TensorRT says of a deserialised engine's layers; that needs a GPU."""

from __future__ import annotations

import json
from typing import Any

from eyas.engines.layers import Layer
from eyas.trt.edition import Edition

_TYPES = {"Half": "fp16", "Float": "fp32", "BFloat16": "bf16", "FP16": "fp16", "FP32": "fp32", "BF16": "bf16"}


def engine_layers(edition: Edition, engine: Any) -> list[Layer]:
    """One row a layer, as the inspector's JSON gives them; names only where the plan was built without details."""
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(edition.trt.LayerInformationFormat.JSON)
    return [_layer(item) for item in json.loads(text).get("Layers", [])]


def _layer(item: Any) -> Layer:
    if not isinstance(item, dict):
        return Layer(str(item), "unknown", "unknown")
    output = (item.get("Outputs") or [{}])[0]
    kind = str(output.get("Format/Datatype", output.get("Datatype", "unknown")))
    words = [word for part in kind.replace("/", " ").split() if (word := _TYPES.get(part, ""))]
    if not words and "int8" in kind.lower():
        words = ["int8"]
    dims = output.get("Dimensions")
    return Layer(
        name=str(item.get("Name", "")),
        kind=str(item.get("LayerType", "unknown")),
        precision=words[0] if words else kind.lower(),
        shape=tuple(dims) if dims else None,
        fused=tuple(part.strip() for part in str(item.get("Metadata", "")).split("\x1e") if part.strip()),
    )
