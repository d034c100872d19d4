// What rollout.cu and rollout_l2.cu have in common: the arrays, what a step leaves, and which blocks have which rows. They
// say in these names how they differ:
//   ROLLOUT_KERNEL          how the kernel is declared
//   EXCHANGE_FIELDS, _READS, _MAKES, _VALUES  arrays in which blocks meet
// and have the template `run` behind this file.
//
// Constants: see place.cuh, with TILES_READING and TILES_SAMPLING of the two kinds of clusters; READING: rows of the
// first kind; CLASSES sampled from; TOKENS in the table; SAVED and F16: as in forward.cu.
#pragma once
#define SIDES 1
#define CLUSTERS_READING ((READING + 8 * TILES_READING - 1) / (8 * TILES_READING))
#define CLUSTERS_SAMPLING ((BATCH - READING + 8 * TILES_SAMPLING - 1) / (8 * TILES_SAMPLING))
#define MODEL_BLOCKS (GROUP * (CLUSTERS_READING + CLUSTERS_SAMPLING))
#define TILES (TILES_READING > TILES_SAMPLING ? TILES_READING : TILES_SAMPLING)
#include "place.cuh"
#define KG (8 / MG < H / 32 ? 8 / MG : H / 32) // warps along the terms of a product
#define KT (H / 16 / KG)                       // tiles of 16 terms of a warp
#define WARPS (MG * KG)
#define THREADS (32 * WARPS)
#define TILE (H * 16)                          // bytes of the state of 8 rows, [H][8]
#define SAMPLING (N - READING)
// Tiles of 16 classes of the readout, a power of two
#define VM (CLASSES <= 16 ? 1 : CLASSES <= 32 ? 2 : CLASSES <= 64 ? 4 : CLASSES <= 128 ? 8 : 16)
static_assert(KT % 2 == 0 && KG >= 2, "two tiles are read at once, two warps finish the columns");

struct Arrays {
  const float* table;   // [TOKENS + 1, 3H], the last row is NaN
  const u16* weights;   // [3H, H], U transposed
  const float* bias;    // [H]
  const u16* readout;   // [16 VM, H], transposed, zeros behind the classes
  const float* carry;   // [N, H]
  const float* factors; // what a state is multiplied by before a product, and what a product is multiplied by
  const int* tokens;    // [T, N], -1 where a sample is read
  const float* noise;   // [T, SAMPLING, CLASSES], what is added to the logits
  u16* hidden;          // [T, N, H]
  u16 *a, *r, *z, *v;   // [T, N, H] f16
  u16* before;          // [T, N, H]
  float* last;          // [N, H]
  int* samples;         // [T, SAMPLING]
  EXCHANGE_FIELDS
}; // all of them with an axis of models in front

// The highest of four lanes' scores, and its class: the lowest where they are equal. Macros, since the compiler inlines
// functions of references later, and optimizes them otherwise.
#define HIGHEST_OF_FOUR(best, chosen)                                                               \
  _Pragma("unroll") for (int mask = 1; mask < 4; mask *= 2) {                                       \
    const int other = (int)from_xor((u32)best, mask), its = (int)from_xor((u32)chosen, mask);       \
    if (other > best || (other == best && its < chosen)) {                                          \
      best = other;                                                                                 \
      chosen = its;                                                                                 \
    }                                                                                               \
  }

// The block's columns of the weights, in a thread's registers for good.
#define HOLD_WEIGHTS(a)                                                                             \
  u32 a[3][KT][4];                                                                                  \
  _Pragma("unroll") for (int gate = 0; gate < 3; gate++)                                            \
  _Pragma("unroll") for (int k = 0; k < KT; k++) {                                                  \
    const u32* p = (const u32*)(arrays.weights + (size_t)(gate * H + rank * HC + mg * 16 + g) * H + (kg * KT + k) * 16) + q; \
    a[gate][k][0] = p[0];                                                                           \
    a[gate][k][1] = p[8 * H / 2];                                                                   \
    a[gate][k][2] = p[4];                                                                           \
    a[gate][k][3] = p[8 * H / 2 + 4];                                                               \
  }

// For groups of blocks: shares the states of step 0, and writes what the carries are at the end.
#define SHARE_FIRST_STATES                                                                                                           \
  if (kg < 2)                                                                                                                        \
    _Pragma("unroll 1") for (int n = 0; n < tiles; n++) {                                                                            \
      float h[2];                                                                                                                    \
      _Pragma("unroll") for (int j = 0; j < 2; j++) {                                                                                \
        const int row = n * 8 + 2 * q + j;                                                                                           \
        h[j] = row < rows ? arrays.carry[(size_t)(row0 + row) * H + column] : 0.f;                                                   \
        if (SAVED && row < rows) arrays.before[(size_t)(row0 + row) * H + column] = (u16)pack_operand(F16 ? clip(h[j]) : h[j], 0.f); \
      }                                                                                                                              \
      held[n * 4 * HC] = pair_of(h[0], h[1]);                                                                                        \
      SHARE_STATE(n, 0, pack_operand(of_state * h[0], of_state * h[1]))                                                              \
    }                                                                                                                                \
  SYNC();                                                                                                                            \
  if (THREAD < tiles) arrive(COUNTER(THREAD));
#define WRITE_LAST_STATES                                                                       \
  _Pragma("unroll 1") for (int n = 0; n < tiles; n++) {                                         \
    PLACE                                                                                       \
    const float2 h = held[n * 4 * HC];                                                          \
    _Pragma("unroll") for (int j = 0; j < 2; j++) {                                             \
      const int row = n * 8 + 2 * q + j;                                                        \
      if (kg < 2 && row < rows) arrays.last[(size_t)(row0 + row) * H + column] = j ? h.y : h.x; \
    }                                                                                           \
  }

// The rows of a cluster over time.
template <int tiles, bool samples> DEV void run(const Arrays& arrays, unsigned char* smem, int row0, int rows);

ROLLOUT_KERNEL gru_rollout(const float* table, const u16* weights, const float* bias, const u16* readout, const float* carry,
                   const float* factors, const int* tokens, const float* noise, EXCHANGE_READS u16* hidden, u16* a,
#if SAVED
                   u16* r, u16* z, u16* v,
#endif
                   float* last,
#if SAVED
                   u16* before,
#endif
                   int* samples
                   EXCHANGE_MAKES
) {
  SHARED
#if !SAVED
  u16* const r = 0;
  u16* const z = 0;
  u16* const v = 0;
  u16* const before = 0;
#endif
  Arrays arrays = {table, weights, bias, readout, carry, factors, tokens, noise, hidden, a, r, z, v, before, last, samples EXCHANGE_VALUES};
  OF_MODEL(arrays.table, (TOKENS + 1) * 3 * H)
  OF_MODEL(arrays.weights, 3 * H * H)
  OF_MODEL(arrays.bias, H)
  OF_MODEL(arrays.readout, 16 * VM * H)
  OF_MODEL(arrays.carry, N * H)
  OF_MODEL(arrays.factors, 2)
  OF_MODEL(arrays.tokens, T * N)
  OF_MODEL(arrays.noise, T * SAMPLING * CLASSES)
  OF_MODEL(arrays.hidden, T * N * H)
  OF_MODEL(arrays.a, T * N * H)
  OF_MODEL(arrays.last, N * H)
  OF_MODEL(arrays.samples, T * SAMPLING)
  if (SAVED) {
    OF_MODEL(arrays.r, T * N * H)
    OF_MODEL(arrays.z, T * N * H)
    OF_MODEL(arrays.v, T * N * H)
    OF_MODEL(arrays.before, T * N * H)
  }
  const int cluster = OWN_BLOCK / GROUP;
  if (cluster < CLUSTERS_READING) {
    const int row0 = cluster * 8 * TILES_READING, left = READING - row0;
    run<TILES_READING, false>(arrays, smem, row0, left < 8 * TILES_READING ? left : 8 * TILES_READING);
  } else {
    const int row0 = READING + (cluster - CLUSTERS_READING) * 8 * TILES_SAMPLING, left = N - row0;
    run<TILES_SAMPLING, true>(arrays, smem, row0, left < 8 * TILES_SAMPLING ? left : 8 * TILES_SAMPLING);
  }
}
