"""CUDA kernels of the operators: written, compiled with NVRTC and launched through cuda-core (the extra `cuda`).

Nothing of CUDA is imported before a kernel is asked for. The source needs no header, so that it compiles with NVRTC
alone: float16 is converted by the instruction itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from eyas.errors import BackendError, problem
from eyas.extras import need

if TYPE_CHECKING:
    from eyas.ops import Operator

BLOCK = 256  # threads
OPTIONS = {"std": "c++17", "fma": True, "use_fast_math": False}  # of NVRTC, besides the architecture

_TYPES = """\
typedef unsigned long long count_t;
struct half_t { unsigned short bits; };  // IEEE float16
template <typename T> struct alignas(16) Pack { T at[16 / sizeof(T)]; };  // what one instruction loads

__device__ __forceinline__ float wide(float v) { return v; }
__device__ __forceinline__ float wide(half_t v) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
    return f;
}
__device__ __forceinline__ void narrow(float v, float& out) { out = v; }
__device__ __forceinline__ void narrow(float v, half_t& out) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(v));
}
"""

# Packs of 16 bytes where every pointer is aligned for that, then what is left, one by one. A thread takes every
# `step`-th, so that any number of threads does any number of elements.
_BODY = """\
__device__ __forceinline__ float value(@PARAMETERS@) { return @EXPRESSION@; }

template <typename T>
__device__ __forceinline__ void all(@POINTERS@, T* y, count_t n@NUMBERS@) {
    const count_t first = blockIdx.x * (count_t)blockDim.x + threadIdx.x;
    const count_t step = gridDim.x * (count_t)blockDim.x;
    constexpr int W = 16 / sizeof(T);
    const bool aligned = ((@ADDRESSES@(count_t)y) & 15) == 0;
    const count_t packs = aligned ? n / W : 0;
    for (count_t i = first; i < packs; i += step) {
        @LOADS@
        Pack<T> out;
        #pragma unroll
        for (int k = 0; k < W; ++k) narrow(value(@LANES@), out.at[k]);
        ((Pack<T>*)y)[i] = out;
    }
    for (count_t i = packs * W + first; i < n; i += step) narrow(value(@ELEMENTS@), y[i]);
}
"""


def elementwise(name: str, expression: str, inputs: int = 1, attributes: Sequence[str] = ()) -> str:
    """CUDA source of an operator that computes each element from the inputs' elements in the same place.

    expression: CUDA C of a float from `x0`, `x1` … and the attributes, floats all. Computed in float32; float16 is
    rounded to nearest at the end. No size is assumed; the inputs have as many elements as the output.
    """
    xs = [f"x{i}" for i in range(inputs)]
    parts = {
        "PARAMETERS": ", ".join(f"float {v}" for v in [*xs, *attributes]),
        "EXPRESSION": expression,
        "POINTERS": ", ".join(f"const T* {x}" for x in xs),
        "NUMBERS": "".join(f", float {a}" for a in attributes),
        "ADDRESSES": "".join(f"(count_t){x} | " for x in xs),
        "LOADS": " ".join(f"const Pack<T> p{x} = ((const Pack<T>*){x})[i];" for x in xs),
        "LANES": ", ".join([*(f"wide(p{x}.at[k])" for x in xs), *attributes]),
        "ELEMENTS": ", ".join([*(f"wide({x}[i])" for x in xs), *attributes]),
    }
    source = _TYPES + "\n" + _BODY
    for word, text in parts.items():
        source = source.replace(f"@{word}@", text)
    passed = ", ".join([*xs, "y", "n", *attributes])
    for kind, element in (("fp32", "float"), ("fp16", "half_t")):
        pointers = ", ".join(f"const {element}* {x}" for x in xs)
        head = f'extern "C" __global__ void {name}_{kind}({pointers}, {element}* y, count_t n{parts["NUMBERS"]})'
        source += f"\n{head} {{\n    all<{element}>({passed});\n}}\n"
    return source


def entry(op: Operator, dtype: np.dtype[Any] | type) -> str:
    """The kernel's name for an element type. Raises BackendError where there is none."""
    kind = {"float32": "fp32", "float16": "fp16"}.get(np.dtype(dtype).name)
    if kind is None:
        raise BackendError(
            problem(f"{op.NAME} has no such kernel", got=np.dtype(dtype).name, expected="float32 | float16", remedy="")
        )
    return f"{op.NAME.lower()}_{kind}"


def compiled(op: Operator, arch: str) -> Any:
    """The operator's kernels as cuda-core's ObjectCode, machine code for `arch` (such as "sm_90"). Needs no GPU.

    Raises BackendError with the compiler's words where the source is wrong, EyasError without cuda-core.
    """
    core = _core()
    options = core.ProgramOptions(arch=arch, name=f"{op.DOMAIN}_{op.NAME}", **OPTIONS)
    try:
        return core.Program(op.CUDA, "c++", options).compile("cubin")
    except Exception as error:  # NVRTC's errors have no common base
        raise BackendError(
            problem(
                f"the kernel of {op.DOMAIN}::{op.NAME} does not compile",
                got=" ".join(str(error).split())[:600],
                expected=f"CUDA C++ that NVRTC takes for {arch}",
                remedy="Correct CUDA in its module; if no libnvrtc was found, pip install nvidia-cuda-nvrtc",
            )
        ) from error


@cache
def kernel(op: Operator, dtype_name: str, device_id: int) -> tuple[Any, int]:
    """(cuda-core's kernel for a device, how many blocks fill it); compiled at the first call, then kept."""
    device = _core().Device(device_id)
    major, minor = device.compute_capability
    code = compiled(op, f"sm_{major}{minor}")
    blocks = int(device.properties.multiprocessor_count) * 2048 // BLOCK
    return code.get_kernel(entry(op, np.dtype(dtype_name))), blocks


def prepare(op: Operator, dtype: np.dtype[Any] | type) -> None:
    """Compile for the current device now rather than in the first launch, which may be under capture."""
    kernel(op, np.dtype(dtype).name, int(_core().Device().device_id))


def launch(
    op: Operator,
    dtype: np.dtype[Any] | type,
    inputs: Sequence[int],
    output: int,
    count: int,
    stream: int,
    **numbers: float,
) -> None:
    """Enqueue the kernel on a stream and return at once.

    inputs, output: device addresses; they must live until the stream has passed. count: elements of the output; none is
    nothing to do. stream: a CUstream as a whole number, of the current device. numbers: every attribute.
    """
    if count == 0:
        return
    core = _core()
    code, blocks = kernel(op, np.dtype(dtype).name, int(core.Device().device_id))
    config = core.LaunchConfig(grid=max(1, min(blocks, -(-count // BLOCK))), block=BLOCK)
    floats = [np.float32(numbers[name]) for name in op.ATTRIBUTES]
    core.launch(core.Stream.from_handle(stream), config, code, *inputs, output, np.uint64(count), *floats)


@cache
def _core() -> Any:
    """cuda-core, whose names left `experimental` in 0.5."""
    core = need("cuda.core", "cuda")
    return core if hasattr(core, "Program") else import_module("cuda.core.experimental")
