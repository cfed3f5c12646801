"""The CUDA path: frames go to the GPU, everything up to the final rows happens there, rows come back.

    host frame ─► page-locked ─┐
    device frame ──────────────┴► letterbox (one launch a batch) ─► engine lane ─► NMS ─► rows ─► host ─► results
    └─ caller or preparer ─────┘└────────────── one engine thread, on its lane's stream ────────────────────────┘

`device` opens a GPU and compiles kernels, `memory` has the arrays, `letterbox` the kernel's launch, `lane` what an
engine looks like from here, `stages` the flow. All through the package cuda-core (the extra `cuda`); nothing of CUDA
is imported until a CUDA device is asked for.
"""
