"""Calls of the CUDA driver that return at once, made without giving up Python's lock.

cuda-core and cuda-bindings give it up around every call. Whoever wants it back waits for the thread that computes in
Python meanwhile, up to the switch interval (5 ms): a poor bargain for a call of microseconds, several times a batch.
What waits for the GPU goes through cuda-core.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

NAME = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# Signatures of the CUDA driver API: handles and addresses are pointers.
_CALLS: dict[str, list[Any]] = {
    "cuCtxSetCurrent": [ctypes.c_void_p],
    "cuEventRecord": [ctypes.c_void_p, ctypes.c_void_p],
    "cuEventSynchronize": [ctypes.c_void_p],
    "cuGraphLaunch": [ctypes.c_void_p, ctypes.c_void_p],
    "cuMemcpyAsync": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p],
    "cuPointerGetAttribute": [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p],
    "cuStreamWaitEvent": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint],
}


@cache
def library() -> ctypes.PyDLL:
    """The driver; only the functions above may be called. Raises OSError where there is none."""
    cuda = ctypes.PyDLL(NAME)
    for name, arguments in _CALLS.items():
        getattr(cuda, name).argtypes = arguments
    return cuda
