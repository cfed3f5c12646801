"""Engines as files: a plan, its sidecar, and the deploy graph it was built from; and a cache of them.

    yolov8n.plan               what the runtime loads, byte for byte
    yolov8n.plan.json          the sidecar: what it is, and the signature of whoever built it (`sidecar.py`)
    yolov8n.plan.graph.onnx    the deploy graph, to build it again for another version or device

An engine is executable code. `open.py` deserialises none whose sidecar does not verify, unless told to trust it.
"""
