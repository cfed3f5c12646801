// Letterbox for a whole batch in one launch: frames of any size, one after another in a table, into the engine's input.
//
// OUT: type of an output value (unsigned char, float, unsigned short for float16). PLANAR: 1 for NCHW, 0 for NHWC.
// A thread writes PIXELS neighbours of a row; threads of a warp are neighbours along x, so that what they read of a
// source row lies together. Frames may lie in page-locked host memory too: then only the rows that are sampled cross
// the bus. The arithmetic is cv2.resize's for bytes, bit for bit: positions (i + ½) · source / target − ½ in double,
// rounded to float; weights rounded to 1/2048; products truncated as OpenCV does. With `smooth`, where it shrinks, the
// mean over the pixel's whole area (cv2.INTER_AREA).

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

struct Frame {            // the host fills it (eyas.cuda.letterbox.FRAME)
    u64 pixels;           // BGR, or the luma plane of NV12; 0 where there is no frame: nothing is written
    u64 chroma;           // NV12's second plane, else 0
    int row, chroma_row;  // bytes from one row to the next
    double step_y, step_x;            // source pixels an output pixel
    int y, x, height, width;          // window of the source that is taken
    int top, left, inner_h, inner_w;  // where it goes in the output
    int source_h, source_w;           // of the whole frame
    int smooth, range;    // range of NV12: 0 limited (16…235), 1 full
    float kr, kb;         // NV12: the colour matrix's coefficients (BT.601: .299, .114; BT.709: .2126, .0722)
    float mean[3], scale[3];  // a float output is (p − mean) · scale, by output channel
    int swap, spare;      // swap: the output is RGB
};

__device__ __forceinline__ int byte(float v) { return __float2int_rn(fminf(fmaxf(v, 0.f), 255.f)); }

__device__ __forceinline__ int3 nv12(const Frame& f, int y, int x) {
    const float luma = ((const u8*)f.pixels)[(long long)y * f.row + x];
    const u8* c = (const u8*)f.chroma + (long long)(y >> 1) * f.chroma_row + (x & ~1);
    const float u = (float)c[0] - 128.f, v = (float)c[1] - 128.f;
    const float l = f.range ? luma : (luma - 16.f) * (255.f / 219.f);
    const float k = f.range ? 1.f : 255.f / 224.f;
    const float r = l + 2.f * (1.f - f.kr) * k * v;
    const float b = l + 2.f * (1.f - f.kb) * k * u;
    const float g = (l - f.kr * r - f.kb * b) / (1.f - f.kr - f.kb);
    return make_int3(byte(b), byte(g), byte(r));
}

__device__ __forceinline__ int3 pixel(const Frame& f, int y, int x) {
    if (f.chroma) return nv12(f, f.y + y, f.x + x);
    const u8* p = (const u8*)f.pixels + (long long)(f.y + y) * f.row + 3 * (f.x + x);
    return make_int3(p[0], p[1], p[2]);
}

// Two pixels side by side: 6 bytes at any address, as three aligned words at most. The words hold bytes of the frame
// only, since the last pixels of the frame are read one by one.
__device__ __forceinline__ void pair(const u8* p, int3& a, int3& b) {
    const u64 address = (u64)p;
    const u32* words = (const u32*)(address & ~3ull);
    const u32 shift = (u32)(address & 3) * 8;
    const u32 w0 = __ldg(words), w1 = __ldg(words + 1);
    const u32 w2 = shift > 16 ? __ldg(words + 2) : 0u;
    const u32 low = __funnelshift_r(w0, w1, shift), high = __funnelshift_r(w1, w2, shift);
    a = make_int3(low & 255u, (low >> 8) & 255u, (low >> 16) & 255u);
    b = make_int3(low >> 24, high & 255u, (high >> 8) & 255u);
}

// Where an output pixel's samples lie along one axis, and their weights in 1/2048.
__device__ __forceinline__ int along(int i, double step, int& near, int& far) {
    const float at = (float)((i + .5) * step - .5);
    const int whole = (int)floorf(at);
    const float part = at - whole;
    near = __float2int_rn((1.f - part) * 2048.f), far = __float2int_rn(part * 2048.f);
    return whole;
}

__device__ __forceinline__ int mix(int a, int b, int c, int d, int wx0, int wx1, int wy0, int wy1) {
    const int upper = a * wx0 + b * wx1, lower = c * wx0 + d * wx1;
    return ((wy0 * (upper >> 4) >> 16) + (wy1 * (lower >> 4) >> 16) + 2) >> 2;
}

__device__ __forceinline__ float3 bilinear(const Frame& f, int oy, int ox) {
    int wy0, wy1, wx0, wx1;
    const int sy = along(oy, f.step_y, wy0, wy1);
    int sx = along(ox, f.step_x, wx0, wx1);
    if (sx < 0) sx = 0, wx0 = 2048, wx1 = 0;
    if (sx >= f.width - 1) sx = f.width - 1, wx0 = 2048, wx1 = 0;
    const int y0 = min(max(sy, 0), f.height - 1), y1 = min(max(sy + 1, 0), f.height - 1);
    const int x1 = min(sx + 1, f.width - 1);
    int3 a, b, c, d;
    const u8* base = (const u8*)f.pixels + 3ll * (f.x + sx);
    const u8* lower = base + (long long)(f.y + y1) * f.row;
    const u8* end = (const u8*)f.pixels + (long long)(f.source_h - 1) * f.row + 3ll * f.source_w;
    if (!f.chroma && lower + 12 <= end) {
        pair(base + (long long)(f.y + y0) * f.row, a, b);
        c = a, d = b;
        if (wy1) pair(lower, c, d);  // without weight it need not cross the bus
    } else {
        a = pixel(f, y0, sx), b = pixel(f, y0, x1), c = pixel(f, y1, sx), d = pixel(f, y1, x1);
    }
    return make_float3(mix(a.x, b.x, c.x, d.x, wx0, wx1, wy0, wy1), mix(a.y, b.y, c.y, d.y, wx0, wx1, wy0, wy1),
                       mix(a.z, b.z, c.z, d.z, wx0, wx1, wy0, wy1));
}

__device__ __forceinline__ float3 area(const Frame& f, int oy, int ox) {
    const float step_y = (float)f.step_y, step_x = (float)f.step_x;
    const float top = oy * step_y, bottom = fminf((oy + 1) * step_y, (float)f.height);
    const float left = ox * step_x, right = fminf((ox + 1) * step_x, (float)f.width);
    float3 sum = make_float3(0.f, 0.f, 0.f);
    for (int y = (int)top; y < bottom; ++y) {
        const float wy = fminf(y + 1.f, bottom) - fmaxf((float)y, top);
        for (int x = (int)left; x < right; ++x) {
            const float w = wy * (fminf(x + 1.f, right) - fmaxf((float)x, left));
            const int3 p = pixel(f, min(y, f.height - 1), min(x, f.width - 1));
            sum = make_float3(fmaf(w, p.x, sum.x), fmaf(w, p.y, sum.y), fmaf(w, p.z, sum.z));
        }
    }
    const float k = 1.f / ((bottom - top) * (right - left));
    return make_float3(sum.x * k, sum.y * k, sum.z * k);
}

__device__ __forceinline__ float3 sample(const Frame& f, int y, int x, float pad) {
    const int oy = y - f.top, ox = x - f.left;
    if (oy < 0 || ox < 0 || oy >= f.inner_h || ox >= f.inner_w) return make_float3(pad, pad, pad);
    if (f.smooth && f.step_y > 1.) return area(f, oy, ox);
    return bilinear(f, oy, ox);
}

__device__ __forceinline__ void store(float v, float& out) { out = v; }
__device__ __forceinline__ void store(float v, unsigned short& out) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out) : "f"(v));
}
__device__ __forceinline__ void store(float v, u8& out) { out = (u8)__float2int_rn(v); }

// Grid: x over groups of PIXELS columns, y over rows, z over frames; block (32, 4).
extern "C" __global__ void letterbox(const Frame* frames, OUT* out, int height, int width, float pad) {
    const int x0 = (blockIdx.x * blockDim.x + threadIdx.x) * PIXELS;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x0 >= width || y >= height) return;
    const Frame& f = frames[blockIdx.z];
    if (!f.pixels) return;
    const u64 plane = (u64)height * width, image = blockIdx.z * 3 * plane;
    OUT values[PIXELS * 3];
    #pragma unroll
    for (int i = 0; i < PIXELS; ++i) {
        float3 p = sample(f, y, min(x0 + i, width - 1), pad);
        float v[3] = {p.x, p.y, p.z};
        if (f.swap) v[0] = p.z, v[2] = p.x;
        #pragma unroll
        for (int c = 0; c < 3; ++c)
            store(sizeof(OUT) == 1 ? v[c] : (v[c] - f.mean[c]) * f.scale[c], values[i * 3 + c]);
    }
    const int count = min(PIXELS, width - x0);
#if PLANAR
    for (int i = 0; i < count; ++i)
        for (int c = 0; c < 3; ++c) out[image + c * plane + (u64)y * width + x0 + i] = values[i * 3 + c];
#else
    OUT* to = out + image + ((u64)y * width + x0) * 3;
    if (sizeof(OUT) == 1 && PIXELS == 4 && count == 4 && ((u64)to & 3) == 0) {
        const u8* v = (const u8*)values;
        #pragma unroll
        for (int w = 0; w < 3; ++w)
            ((u32*)to)[w] = v[4 * w] | v[4 * w + 1] << 8 | v[4 * w + 2] << 16 | (u32)v[4 * w + 3] << 24;
    } else {
        for (int i = 0; i < count * 3; ++i) to[i] = values[i];
    }
#endif
}
