// The readout of rollout.cu and rollout_ahead_l2.cu, whose blocks have its whole kernel: they all add in the same order, and
// choose the same class. They say in AT_READOUT, AT_NOISE and AT_SCORES where in shared memory lie the kernel, what is added
// to the logits of two units, and scores, in parts.
#pragma once
#define VW (VM < WARPS ? VM : WARPS) // warps along the classes of the readout
#define VK (H / 32 % (WARPS / VW) ? 4 : WARPS / VW) // warps along its terms
#define VT (H / 16 / VK)                       // tiles of 16 terms of a warp
#define SCORES (16 * VM + 4)                   // numbers of a row of scores in shared memory
static_assert(VT % 2 == 0 && VM % VW == 0 && VK * VW <= WARPS, "all warps of a readout have as much to do");

// Its kernel, in the order in which threads multiply by it.
#define HOLD_READOUT(readout)                                                                             \
  for (int i = THREAD; i < VM * 16 * H / 2; i += THREADS) {                                               \
    const int part = i & 3, l = i >> 2 & 31, k = (i >> 7) % (H / 16), m = (i >> 7) / (H / 16);            \
    const int class_ = m * 16 + (l >> 2) + 8 * (part & 1), term = k * 16 + 2 * (l & 3) + 8 * (part >> 1); \
    ((u32*)(smem + AT_READOUT))[i] = ((const u32*)readout)[((size_t)class_ * H + term) / 2];              \
  }
// What the logits of a thread's warp start from: what is added to them, in a buffer of two.
#define FIRST_LOGITS(logits, buffer)                                                                    \
  _Pragma("unroll") for (int m = 0; m < VM / VW; m++)                                                   \
  _Pragma("unroll") for (int i = 0; i < 4; i++) {                                                       \
    const float* const noise = (const float*)(smem + AT_NOISE) + ((buffer)*8 + 2 * q + (i & 1)) * SCORES; \
    logits[m][i] = vk ? 0.f : noise[(vw + m * VW) * 16 + g + 8 * (i >> 1)];                             \
  }
// Adds the product with the state at `state`, and leaves the parts of the scores.
#define ADD_LOGITS(logits, state)                                                                               \
  _Pragma("unroll") for (int m = 0; m < VM / VW; m++) {                                                         \
    const uint4* const kernel = (const uint4*)(smem + AT_READOUT) + ((vw + m * VW) * (H / 16) + vk * VT) * 32 + lane; \
    float more[4] = {}; /* every other term: two shorter chains */                                              \
    _Pragma("unroll") for (int k = 0; k < VT; k += 2) {                                                         \
      u32 b0, b1, b2, b3;                                                                                       \
      ldsm4t(state + ((vk * VT + k) * 16 + lane) * 16, b0, b1, b2, b3);                                         \
      const uint4 x = kernel[k * 32], y = kernel[(k + 1) * 32];                                                 \
      const u32 even[4] = {x.x, x.y, x.z, x.w}, odd[4] = {y.x, y.y, y.z, y.w};                                  \
      mma(logits[m], even, b0, b1);                                                                             \
      mma(more, odd, b2, b3);                                                                                   \
    }                                                                                                           \
    _Pragma("unroll") for (int i = 0; i < 4; i++)                                                               \
      ((float*)(smem + AT_SCORES))[(vk * 8 + 2 * q + (i & 1)) * SCORES + (vw + m * VW) * 16 + g + 8 * (i >> 1)] = \
          logits[m][i] + more[i];                                                                               \
  }

// The class of the highest score of row `lane / 4` of a tile: of a fourth of the classes, then of all.
DEV int choose(const float* scores, int lane) {
  const int q = lane & 3;
  int best = 0, chosen = 0;
#pragma unroll
  for (int m = 0; m < VM; m++) {
    const float4* const p = (const float4*)(scores + (lane >> 2) * SCORES + m * 16 + 4 * q);
    float4 s = p[0];
#pragma unroll
    for (int k = 1; k < VK; k++) {
      const float4 more = p[k * 8 * SCORES / 4];
      s.x += more.x;
      s.y += more.y;
      s.z += more.z;
      s.w += more.w;
    }
    const int keys[4] = {ordered(s.x), ordered(s.y), ordered(s.z), ordered(s.w)};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int index = m * 16 + 4 * q + i;
      if (m == 0 && i == 0) {
        best = 4 * q < CLASSES ? keys[0] : (int)0x80000000;
        chosen = index;
      } else if (keys[i] > best && (m * 16 + 16 <= CLASSES || index < CLASSES)) {
        best = keys[i];
        chosen = index;
      }
    }
  }
  HIGHEST_OF_FOUR(best, chosen)
  return chosen < CLASSES ? chosen : CLASSES - 1;
}
