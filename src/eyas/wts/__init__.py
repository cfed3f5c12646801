"""YOLOv5 from a `.wts` file, as tensorrtx does it: text weights, the architecture as data, TensorRT's layer API.

    tensors = read_wts(Path("yolov5s.wts"))                   file.py           text ↔ arrays
    weights = settle(tensors, architecture("yolov5s"))        weights.py        names and classes checked, folded
    model = to_onnx(weights)                                  onnx_network.py   for eyas' own flow, on every backend
    built = build_network(trt, network, weights)              trt_network.py    TensorRT alone: no ONNX, no parser
    built = graft(trt, network, deploy, weights)              graft.py          the same within eyas' stem and head

arch.py has the rows, walk.py makes networks of them, decode.py the final rows; fit.py finds the architecture of some
weights, names.py the PyTorch names of an ONNX network's weights; open.py and export.py are what the command uses.
"""

from eyas.wts.arch import ARCHES, Arch, architecture
from eyas.wts.export import export_wts
from eyas.wts.file import read_wts, write_wts
from eyas.wts.graft import graft
from eyas.wts.names import tensors_from_onnx, tensors_from_state_dict
from eyas.wts.onnx_network import to_onnx
from eyas.wts.open import open_wts
from eyas.wts.trt_network import Built, add_batch_profile, build_network, create_network
from eyas.wts.weights import Weights, settle

__all__ = [
    "ARCHES",
    "Arch",
    "Built",
    "Weights",
    "add_batch_profile",
    "architecture",
    "build_network",
    "create_network",
    "export_wts",
    "graft",
    "open_wts",
    "read_wts",
    "settle",
    "tensors_from_onnx",
    "tensors_from_state_dict",
    "to_onnx",
    "write_wts",
]
