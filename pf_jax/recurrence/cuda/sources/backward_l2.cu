// backward.cu for devices without clusters, and for more units than a cluster's registers hold weights of.
//
// The blocks of a group exchange cotangents of the gates through the device's memory, as forward_l2.cu has it for states.
// A block then multiplies those of all columns by its rows of U, which gives all of dh that is its own.
//
// Constants: as in backward.cu, and GROUP: the number of blocks of a group; HELD: tiles of 8 rows whose cotangents are in
// shared memory at once.
#include "primitives.cuh"

#include "place.cuh"
#define BACKWARD_KERNEL GRID_KERNEL
#define RANK (OWN_BLOCK % GROUP)
#define KG (WARPS / MG)         // warps along the terms of a product
#define KT (3 * H / 16 / KG)    // tiles of 16 terms of a warp
#define DTILE (3 * H * 16)      // bytes of the cotangents of 8 rows, [3 H][8]
#define PTILE (WARPS * 4 * 32)  // parts of the sums of 8 rows, [MG][KG][4][32 lanes]
#define OPERAND_BYTES (HELD * DTILE)
#define SUMS_BYTES (NT * PTILE * 4)
#define BAR_BYTES 0
// zeros: [groups, 32], the same memory as counters: a group's is the first of its 32, which share no line with another's.
// deltas: [groups, 2, NT, 3 H, 8], of which a kernel leaves the last two.
#define BY_TILE 1
#define EXCHANGE_READS const u32*,
#define EXCHANGE_MAKES , u16 *deltas, u32 *counters
#define WEIGHTS                                                                                               \
  const int kg = warp / MG;                                                                                   \
  u32 a[KT][4];                                                                                               \
  _Pragma("unroll") for (int k = 0; k < KT; k++) {                                                            \
    const size_t unit = direction * H + rank * HC + mg * 16 + g;                                              \
    const u32* p = (const u32*)(w + unit * (3 * H) + (kg * KT + k) * 16) + q;                                 \
    a[k][0] = p[0];                                                                                           \
    a[k][1] = p[8 * 3 * H / 2];                                                                               \
    a[k][2] = p[4];                                                                                           \
    a[k][3] = p[8 * 3 * H / 2 + 4];                                                                           \
  }
#define EXCHANGE_INIT                               \
  deltas += (size_t)(BLOCK / GROUP) * 2 * NT * 3 * H * 8; \
  counters += BLOCK / GROUP * 32;
#define EXCHANGE_PLACES float* const parts = (float*)(smem + AT_SUMS);
#define EXCHANGE_BEGIN SYNC();
#define COTANGENT(n, i, both) share((u32*)(deltas + ((size_t)(now * NT + n) * 3 * H + i * H + column) * 8 + 2 * q), both);
#define PRODUCTS_SEND(s) \
  if (THREAD == 0) arrive(counters);
#define COPY(n)                                                                                \
  {                                                                                            \
    if ((n) < NT)                                                                              \
      for (int i = thread_here(); i < 3 * H; i += THREADS)                                     \
        copy16(s_d + (n) % HELD * DTILE + i * 16, deltas + ((size_t)(now * NT + (n)) * 3 * H + i) * 8, true); \
    copies_commit();                                                                           \
  }
#define SUMS_WAIT(s)                                                                           \
  if (THREAD == 0) wait_for(counters, GROUP * (s + 1));                                        \
  SYNC(); /* and for that thread */                                                            \
  for (int n = 0; n < HELD; n++) COPY(n)                                                       \
  _Pragma("unroll 1") for (int n = 0; n < NT; n++) {                                           \
    copies_wait<HELD - 1>();                                                                   \
    SYNC(); /* the cotangents of the tile are there */                                         \
    float sums[4] = {};                                                                        \
    _Pragma("unroll") for (int k = 0; k < KT; k += 2) {                                        \
      u32 b0, b1, b2, b3;                                                                      \
      ldsm4t(s_d + n % HELD * DTILE + ((kg * KT + k) * 16 + lane) * 16, b0, b1, b2, b3);       \
      mma(sums, a[k], b0, b1);                                                                 \
      mma(sums, a[k + 1], b2, b3);                                                             \
    }                                                                                          \
    float* const p = parts + n * PTILE + (mg * KG + kg) * 4 * 32 + lane;                       \
    _Pragma("unroll") for (int i = 0; i < 4; i++) p[i * 32] = sums[i];                         \
    if (n + HELD < NT) SYNC(); /* all have read the tile */                                    \
    COPY(n + HELD)                                                                             \
  }                                                                                            \
  SYNC(); /* the parts of the sums are there */
#define SUM(n, j, sum)                                                                         \
  _Pragma("unroll") for (int p = 0; p < KG; p++)                                               \
    sum += parts[n * PTILE + ((mg * KG + p) * 4 + 2 * half + j) * 32 + lane];
#define EXCHANGE_END
#include "backward.cuh"
static_assert(MG * KG == WARPS && KG >= 2 && KT % 2 == 0, "two tiles are read at once, two warps finish the columns");
