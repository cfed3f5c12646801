"""Pack a network for the wheel: weights stored in fp16 (computed in fp32), its card in the metadata.

    python scripts/pack_model.py nanodet_g.onnx src/eyas/models/nanodet_g_416.onnx

Each large fp32 weight becomes an fp16 weight and a Cast to fp32, so the file is plain ONNX that computes in fp32;
eyas folds the Casts away when it reads the file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from eyas.build import open_network
from eyas.card import METADATA_KEY, card_to_dict

SMALLEST = 256  # elements: biases and shapes stay as they are


def pack(source: Path, target: Path) -> None:
    """Write `source` with fp16 weights and its card to `target`."""
    network = open_network(source)
    graph = network.model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST:
            continue
        name, array = tensor.name, numpy_helper.to_array(tensor)
        half = array.astype(np.float16)
        if not np.isfinite(half).all():
            raise SystemExit(f"{name} does not fit fp16")
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}/fp16"))
        casts.append(helper.make_node("Cast", [f"{name}/fp16"], [name], name=f"{name}/cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    network.model.metadata_props.add(key=METADATA_KEY, value=json.dumps(card_to_dict(network.card)))
    onnx.checker.check_model(network.model)
    onnx.save(network.model, target)
    print(f"{target}: {target.stat().st_size} bytes, {len(casts)} weights in fp16")


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
