"""TensorRT, in the editions `tensorrt` 8.6, 10, 11 and `tensorrt_rtx`: one package over "the trt module".

No file here imports TensorRT: the module comes in as an argument (`edition.Edition`), so that one text serves every
edition and tests can put a small fake in its place. READ FIRST: `builder.py` (deploy graph → plan), then
`lane.py` and `executor.py` (plan → an engine of lanes, see `eyas.cuda.lane`). `plugin.py` is what
`eyas.backends.tensorrt` and `tensorrt_rtx` are made of.
"""
