// Behind a convolution without bias: x = ACT(x + bias), in place and in one pass, channels last.
//
// HALF: 1 where x is float16, else float32. ACT: an expression of `float v`. It is computed in float32 and rounded
// once. A thread has 16 bytes of x; bias is float32, one number a channel, or null.

typedef unsigned short u16;
typedef unsigned int u32;

#if HALF
typedef u16 T;
__device__ __forceinline__ float load(T h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}
__device__ __forceinline__ T store(float f) {
    T h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}
#else
typedef float T;
__device__ __forceinline__ float load(T f) { return f; }
__device__ __forceinline__ T store(float f) { return f; }
#endif

constexpr u32 WIDE = 16 / sizeof(T);
struct alignas(16) Pack { T of[WIDE]; };

__device__ __forceinline__ T value(T x, const float* bias, u32 channel) {
    const float v = bias ? load(x) + __ldg(bias + channel) : load(x);
    return store(ACT);
}

extern "C" __global__ void epilogue(T* x, const float* bias, u32 count, u32 channels) {
    const u32 first = (blockIdx.x * blockDim.x + threadIdx.x) * WIDE;
    if (first >= count) return;
    u32 channel = first % channels;
    if (first + WIDE <= count) {
        Pack pack = *(const Pack*)(x + first);
#pragma unroll
        for (u32 i = 0; i < WIDE; ++i) {
            pack.of[i] = value(pack.of[i], bias, channel);
            if (++channel == channels) channel = 0;
        }
        *(Pack*)(x + first) = pack;
    } else {
        for (u32 i = first; i < count; ++i) {
            x[i] = value(x[i], bias, channel);
            if (++channel == channels) channel = 0;
        }
    }
}
