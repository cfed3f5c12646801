// Greedy NMS for a whole batch in one launch, a block an image: candidates in any order → kept rows first, in order.
//
// As `eyas.graph.head.append_nms` has it: a candidate comes before another if its score is higher, or equal and its
// order lower; box i is suppressed by a kept box j before it, of its class (unless agnostic), when
// intersection > iou · union; score −1 marks an empty row. Exact for any chain of suppressions.
// K: rows an image, up to 512. WIDTH: columns (x1 y1 x2 y2 score class extras…).

#define WORDS ((K + 31) / 32)

extern "C" __global__ void __launch_bounds__(512) nms(
    const float* table, const float* order, const float* limits, int agnostic, float* rows, int* count, bool* converged) {
    __shared__ float x1[K], y1[K], x2[K], y2[K], score[K], kind[K];
    __shared__ short from[K];                 // sorted place → row of the table
    __shared__ unsigned int hits[K][WORDS];   // in sorted places: bit i of hits[j]: j would suppress i
    __shared__ unsigned int kept[WORDS];
    const int t = threadIdx.x, image = blockIdx.x;
    const float* mine = table + (long long)image * K * WIDTH;
    const float* ranks = order + (long long)image * K;
    const float iou = limits[image * 2 + 1];
    if (t < K) score[t] = fmaxf(mine[t * WIDTH + 4], -1.f);  // NaN, which has no place in an order, is −1
    __syncthreads();
    int place = 0;
    const float s = t < K ? score[t] : 0.f, r = t < K ? ranks[t] : 0.f;
    if (t < K)
        for (int j = 0; j < K; ++j) place += score[j] > s || (score[j] == s && ranks[j] < r);
    __syncthreads();  // everyone has read the unsorted scores
    if (t < K) {
        from[place] = t;
        x1[place] = mine[t * WIDTH], y1[place] = mine[t * WIDTH + 1];
        x2[place] = mine[t * WIDTH + 2], y2[place] = mine[t * WIDTH + 3];
        score[place] = s, kind[place] = mine[t * WIDTH + 5];
    }
    __syncthreads();
    const int valid = __syncthreads_count(t < K && score[t < K ? t : 0] > 0.f);
    if (t < K) {
        const float area = fmaxf(x2[t] - x1[t], 0.f) * fmaxf(y2[t] - y1[t], 0.f);
        for (int w = 0; w < WORDS; ++w) {
            unsigned int bits = 0;
            for (int b = 0; b < 32; ++b) {
                const int i = w * 32 + b;
                if (i <= t || i >= valid || t >= valid) continue;
                const float width = fmaxf(fminf(x2[t], x2[i]) - fmaxf(x1[t], x1[i]), 0.f);
                const float height = fmaxf(fminf(y2[t], y2[i]) - fmaxf(y1[t], y1[i]), 0.f);
                const float both = width * height;
                const float other = fmaxf(x2[i] - x1[i], 0.f) * fmaxf(y2[i] - y1[i], 0.f);
                // __fmul_rn and the like: each step rounds as the graph's does, nothing is fused.
                const float joint = __fsub_rn(__fadd_rn(area, other), both);
                if ((agnostic || kind[t] == kind[i]) && __fmul_rn(iou, joint) < both) bits |= 1u << b;
            }
            hits[t][w] = bits;
        }
    }
    __syncthreads();
    if (t < 32) {  // one warp goes through the rows in order; lane w holds word w of who is gone
        unsigned int gone = 0;
        for (int j = 0; j < valid; ++j) {
            const unsigned int word = __shfl_sync(~0u, gone, j >> 5);
            if (!(word >> (j & 31) & 1) && t < WORDS) gone |= hits[j][t];
        }
        if (t < WORDS) kept[t] = ~gone;
    }
    __syncthreads();
    // Kept rows first, then the suppressed, then the empty, each in order.
    int before = 0, total = 0;
    for (int w = 0; w < WORDS; ++w) {
        const int first = w * 32, left = valid - first;
        const unsigned int real = left >= 32 ? ~0u : left > 0 ? (1u << left) - 1 : 0u;
        const unsigned int bits = kept[w] & real;
        total += __popc(bits);
        if (first + 32 <= t) before += __popc(bits);
        else if (first <= t) before += __popc(bits & ((1u << (t & 31)) - 1));
    }
    if (t < K) {
        const bool stays = t < valid && (kept[t >> 5] >> (t & 31) & 1);
        const int to = t >= valid ? t : stays ? before : total + t - before;
        float* out = rows + ((long long)image * K + to) * WIDTH;
        const float* in = mine + (int)from[t] * WIDTH;
        for (int c = 0; c < WIDTH; ++c) out[c] = in[c];
    }
    if (t == 0) count[image] = total, converged[image] = true;
}
