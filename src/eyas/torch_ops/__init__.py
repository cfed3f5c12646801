"""A deploy graph in PyTorch, operator by operator: no export, no tracing compiler, no modules.

    deploy graph ─► node.Op list ─► fuse (conv + activation, casts) ─► bind, for one batch size ─► run.Program

`table` has a function for each ONNX operator that is called once, when the engine opens, with shapes and constants
known; what it returns runs for each batch, on tensors alone. So nothing but device work is left, which a CUDA graph
can hold (`lane`). No module here imports torch by itself.
"""
