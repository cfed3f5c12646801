"""What is wrong with an exported network, why it hurts, what to do; and repairs that are proved.

`check.examine` asks every rule of `rules/*.py`; `repair.repair` mends what can be mended and proves it on ONNX Runtime.
"""
