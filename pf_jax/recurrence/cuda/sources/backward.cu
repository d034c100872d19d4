// The way back of GRUs over time in one launch, one or two in opposite directions.
//
// A block forms the cotangents of its own columns' gates, multiplies them by its columns of U, and sends every block
// of the cluster the part of dh that is that one's. So sums stay in float32, in an order that is always the same.
//
// With F16 the operands are in half precision, which has the ten bits of TF32 but not its range: cotangents of a row are
// multiplied by a power of two that brings the largest of the block's to 2^14 to 2^15, and its sums by the inverse. So what
// is 2^29 times smaller still has ten bits.
//
// Constants: see place.cuh; HALF_D: whether d_hidden is in half precision, float32 otherwise; HAS_DA: whether there
// are cotangents of the preactivations; F16.
#include "primitives.cuh"

#include "lanes.cuh"
#include "place.cuh"
#define BACKWARD_KERNEL KERNEL
#define RANK cluster_rank()
#define MT (H / 16 / WARPS)     // tiles of 16 units of dh of a warp: those of the block of its number
#define KB (3 * HC / 16)        // tiles of 16 terms of a product
#define DTILE (3 * HC * 16)     // bytes of the operand of 8 rows, [3 HC][8]
#define STILE (8 * HC * 8 * 4)  // bytes of the parts of dh of 8 rows, [8 blocks][HC][8]
#define OPERAND_BYTES (2 * NT * DTILE)
#define SUMS_BYTES (2 * NT * STILE)
#define BAR_BYTES 16
#define BY_TILE 0
#define EXCHANGE_READS
#define EXCHANGE_MAKES
#define WEIGHTS                                                                                                  \
  u32 a[MT][KB][4];                                                                                              \
  _Pragma("unroll") for (int m = 0; m < MT; m++)                                                                 \
    _Pragma("unroll") for (int k = 0; k < KB; k++) {                                                             \
      const int gate = k * 16 / HC, at = gate * H + rank * HC + k * 16 % HC;                                     \
      const u32* p = (const u32*)(w + (size_t)(direction * H + (warp * MT + m) * 16 + g) * (3 * H) + at) + q;    \
      a[m][k][0] = p[0];                                                                                         \
      a[m][k][1] = p[8 * 3 * H / 2];                                                                             \
      a[m][k][2] = p[4];                                                                                         \
      a[m][k][3] = p[8 * 3 * H / 2 + 4];                                                                         \
    }
#define EXCHANGE_INIT                                       \
  if (THREAD == 0) {                                        \
    for (int i = 0; i < 2; i++) bar_init(s_bar + 8 * i, 1); \
    bar_expect(s_bar, NT * STILE);                          \
    bar_init_fence();                                       \
  }                                                         \
  if (F16 && THREAD < 2 * ROWS) ((u32*)(smem + AT_LARGEST))[THREAD] = 0; \
  if (F16 && THREAD == 0) ((float*)(smem + AT_LARGEST))[2 * ROWS] = scale[F16];
// A warp's tiles of units are all of one block.
#define EXCHANGE_PLACES                                                                          \
  const u32 to_sums = map_to(s_d + AT_SUMS + ((rank * HC + g) * 8 + 2 * q) * 4, warp), to_bar = map_to(s_bar, warp);
#define EXCHANGE_BEGIN cluster_sync();
#define COTANGENT(n, i, both) *(u32*)(smem + (now * NT + n) * DTILE + (i * HC + local) * 16 + q * 4) = both;
#define OPERANDS                                                                                                     \
  for (int i = thread_here(); i < NT * 3 * HC; i += THREADS) {                                                       \
    const int of_block = i % HC, kind = i / HC % 3, n = i / HC / 3;                                                  \
    const u32* const largest = (const u32*)(smem + AT_LARGEST) + (now * NT + n) * 8;                                 \
    const unsigned char* const lines = smem + AT_LEFT + LEFT(kind) + n * 8 * LEFT_LINE + of_block * 4;               \
    u32 x[4];                                                                                                        \
    _Pragma("unroll") for (int k = 0; k < 4; k++)                                                                    \
      x[k] = pack_f16(to_half(largest[2 * k]) * *(const float*)(lines + 2 * k * LEFT_LINE),                          \
                      to_half(largest[2 * k + 1]) * *(const float*)(lines + (2 * k + 1) * LEFT_LINE));               \
    uint4 all;                                                                                                       \
    all.x = x[0];                                                                                                    \
    all.y = x[1];                                                                                                    \
    all.z = x[2];                                                                                                    \
    all.w = x[3];                                                                                                    \
    *(uint4*)(smem + (now * NT + n) * DTILE + (kind * HC + of_block) * 16) = all;                                    \
  }                                                                                                                  \
  if (THREAD < ROWS) ((u32*)(smem + AT_LARGEST))[(now ^ 1) * ROWS + THREAD] = 0; /* of the next step */              \
  SYNC(); /* the operand is there */
#if F16
// Of a row of a tile, what its sums are multiplied by.
#define OF_SUMS(n, j) \
  (((const float*)(smem + AT_LARGEST))[2 * ROWS] * of_half(((const u32*)(smem + AT_LARGEST))[(now * NT + n) * 8 + 2 * q + j]))
#else
#define OF_SUMS(n, j) 1.f
#endif
#define PRODUCTS_SEND(s)                                                                         \
  _Pragma("unroll") for (int n = 0; n < NT; n++) {                                               \
    float sums[MT][4] = {};                                                                      \
    _Pragma("unroll") for (int k = 0; k < KB; k += 2) {                                          \
      u32 b0, b1, b2, b3; /* of an odd number of tiles the last two are not used */              \
      ldsm4t(s_d + (now * NT + n) * DTILE + (k * 16 + lane) * 16, b0, b1, b2, b3);               \
      _Pragma("unroll") for (int m = 0; m < MT; m++) mma(sums[m], a[m][k], b0, b1);              \
      if (k + 1 < KB)                                                                            \
        _Pragma("unroll") for (int m = 0; m < MT; m++)                                           \
          mma(sums[m], a[m][k + 1 < KB ? k + 1 : k], b2, b3);                                    \
    }                                                                                            \
    _Pragma("unroll") for (int m = 0; m < MT; m++)                                               \
      _Pragma("unroll") for (int i = 0; i < 2; i++) {                                            \
        const u32 to = to_sums + (now * NT + n) * STILE + (m * 16 + 8 * i) * 32;                 \
        send2(to, OF_SUMS(n, 0) * sums[m][2 * i], OF_SUMS(n, 1) * sums[m][2 * i + 1], to_bar + 8 * now); \
      }                                                                                          \
  }
#define SUMS_WAIT(s)                                              \
  bar_wait(s_bar + 8 * now, s >> 1 & 1);                          \
  if (THREAD == 0) bar_expect(s_bar + 8 * (now ^ 1), NT * STILE);
#define SUM(n, j, sum)                                                                                               \
  const float* const part = (const float*)(smem + AT_SUMS + (now * NT + n) * STILE) + local * 8 + 2 * q + j;         \
  _Pragma("unroll") for (int p = 0; p < 8; p++) sum += part[p * HC * 8];
#define EXCHANGE_END cluster_sync(); // no block leaves before what it has sent has arrived
#include "backward.cuh"
