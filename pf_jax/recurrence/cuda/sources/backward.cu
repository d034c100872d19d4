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
#define READ_ROWS ROWS
#define EXCHANGE_READS
#define EXCHANGE_MAKES
#define MT (H / 16 / WARPS)     // tiles of 16 units of dh of a warp: those of the block of its number
#define KB (3 * HC / 16)        // tiles of 16 terms of a product
#define DTILE (3 * HC * 16)     // bytes of the operand of 8 rows, [3 HC][8]
#define STILE (8 * HC * 8 * 4)  // bytes of the parts of dh of 8 rows, [8 blocks][HC][8]

// Shared memory, in bytes: operands of two steps, parts of sums of two, what two read, and what one leaves
#define AT_SUMS (2 * NT * DTILE)
#define AT_READ (AT_SUMS + 2 * NT * STILE)
#define AT_LEFT (AT_READ + 2 * READ_BYTES)
#define AT_LARGEST (AT_LEFT + LEFT(4))       // of each row, for two steps; behind them the scale of w
#define AT_BARS (AT_LARGEST + F16 * (2 * ROWS * 4 + 16))
#define SHARED_BYTES (AT_BARS + 16)
#include "backward.cuh"

KERNEL gru_backward(ARRAYS) {
  SHARED
  OF_MODEL_ARRAYS
  const int lane = THREAD & 31, warp = THREAD >> 5, mg = warp % MG, half = warp / MG & 1;
  const bool owns = warp < 2 * MG; // one column of two rows of each tile
  const int g = lane >> 2, q = lane & 3;
  const u32 rank = cluster_rank();
  const int direction = DIRECTION, row0 = FIRST_ROW;
  const int local = mg * 16 + half * 8 + g, column = rank * HC + local;
  const u32 s_d = smem_of(smem), s_read = s_d + AT_READ, s_bar = s_d + AT_BARS;
  // The weights, for good.
  u32 a[MT][KB][4];
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int k = 0; k < KB; k++) {
      const int gate = k * 16 / HC, at = gate * H + rank * HC + k * 16 % HC;
      const u32* p = (const u32*)(w + (size_t)(direction * H + (warp * MT + m) * 16 + g) * (3 * H) + at) + q;
      a[m][k][0] = p[0];
      a[m][k][1] = p[8 * 3 * H / 2];
      a[m][k][2] = p[4];
      a[m][k][3] = p[8 * 3 * H / 2 + 4];
    }
  if (THREAD == 0) {
    for (int i = 0; i < 2; i++) bar_init(s_bar + 8 * i, 1);
    bar_expect(s_bar, NT * STILE);
    bar_init_fence();
  }
#if F16
  u32* const largest = (u32*)(smem + AT_LARGEST);
  if (THREAD < 2 * ROWS) largest[THREAD] = 0;
  if (THREAD == 0) ((float*)largest)[2 * ROWS] = scale[F16];
// Of a row of a tile, what its sums are multiplied by.
#define OF_SUMS(n, j) (((const float*)largest)[2 * ROWS] * of_half(largest[(now * NT + n) * 8 + 2 * q + j]))
#else
#define OF_SUMS(n, j) 1.f
#endif
  // A warp's tiles of units are all of one block.
  const u32 to_sums = map_to(s_d + AT_SUMS + ((rank * HC + g) * 8 + 2 * q) * 4, warp), to_bar = map_to(s_bar, warp);
  float dh[NT][2], total[4] = {};
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int row = row0 + n * 8 + 2 * q + j;
      dh[n][j] = row < N ? d_last[((size_t)direction * N + row) * H + column] : 0.f;
    }

#define READ(s)                                                         \
  {                                                                     \
    if ((s) < T) COPY_READ(s, row0, s_read + ((s)&1) * READ_BYTES)      \
    copies_commit();                                                    \
  }
  FACTORS(NT) // found before dh is known
#define FACTORS_OF(s) \
  _Pragma("unroll") for (int n = 0; n < NT; n++) FIND_FACTORS(AT_READ + ((s)&1) * READ_BYTES, n * 8, n)
  READ(0)
  READ(1)
  copies_wait<1>();
  cluster_sync();
  if (owns && NT == 1) FACTORS_OF(0)

  for (int s = 0; s < T; s++) {
    const int now = s & 1;
    float keep[NT][2];
    if (owns) {
      if (NT > 1) FACTORS_OF(s) // registers have no room for them before
#pragma unroll
      for (int n = 0; n < NT; n++) {
        const u32 line = (n * 8 + 2 * q) * LEFT_LINE + local * (u32)sizeof(left_t);
        float d[4][2]; // cotangents of r, z, U h + c, a
#pragma unroll
        for (int j = 0; j < 2; j++) FIND_COTANGENTS(d, dh[n][j], keep[n][j], n, j)
#pragma unroll
        for (int i = 0; i < 4; i++) {
#if F16
          *(float*)(smem + AT_LEFT + LEFT(i) + line) = d[i][0];
          *(float*)(smem + AT_LEFT + LEFT(i) + line + LEFT_LINE) = d[i][1];
#else
          const u32 both = pack_bf16(d[i][0], d[i][1]);
          if (i < 3) *(u32*)(smem + (now * NT + n) * DTILE + (i * HC + local) * 16 + q * 4) = both;
          *(u16*)(smem + AT_LEFT + LEFT(i) + line) = (u16)both;
          *(u16*)(smem + AT_LEFT + LEFT(i) + line + LEFT_LINE) = (u16)(both >> 16);
#endif
          total[i] += d[i][0] + d[i][1];
        }
#if F16
        RAISE_LARGEST(d, largest + (now * NT + n) * 8)
#endif
      }
    }
    SYNC(); // the operand and the lines are there
#if F16
    for (int i = thread_here(); i < NT * 3 * HC; i += THREADS) {
      const int of_block = i % HC, kind = i / HC % 3, n = i / HC / 3;
      const u32* const of_tile = largest + (now * NT + n) * 8;
      const unsigned char* const lines = smem + AT_LEFT + LEFT(kind) + n * 8 * LEFT_LINE + of_block * 4;
      u32 x[4];
#pragma unroll
      for (int k = 0; k < 4; k++)
        x[k] = pack_f16(to_half(of_tile[2 * k]) * *(const float*)(lines + 2 * k * LEFT_LINE),
                        to_half(of_tile[2 * k + 1]) * *(const float*)(lines + (2 * k + 1) * LEFT_LINE));
      uint4 all;
      all.x = x[0];
      all.y = x[1];
      all.z = x[2];
      all.w = x[3];
      *(uint4*)(smem + (now * NT + n) * DTILE + (kind * HC + of_block) * 16) = all;
    }
    if (THREAD < ROWS) largest[(now ^ 1) * ROWS + THREAD] = 0; // of the next step
    SYNC(); // the operand is there
#endif
#pragma unroll
    for (int n = 0; n < NT; n++) {
      float sums[MT][4] = {};
#pragma unroll
      for (int k = 0; k < KB; k += 2) {
        u32 b0, b1, b2, b3; // of an odd number of tiles the last two are not used
        ldsm4t(s_d + (now * NT + n) * DTILE + (k * 16 + lane) * 16, b0, b1, b2, b3);
#pragma unroll
        for (int m = 0; m < MT; m++) mma(sums[m], a[m][k], b0, b1);
        if (k + 1 < KB)
#pragma unroll
          for (int m = 0; m < MT; m++) mma(sums[m], a[m][k + 1 < KB ? k + 1 : k], b2, b3);
      }
#pragma unroll
      for (int m = 0; m < MT; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const u32 to = to_sums + (now * NT + n) * STILE + (m * 16 + 8 * i) * 32;
          send2(to, OF_SUMS(n, 0) * sums[m][2 * i], OF_SUMS(n, 1) * sums[m][2 * i + 1], to_bar + 8 * now);
        }
    }
    WRITE_LEFT(s, row0) // while that is on its way
    READ(s + 2)
    copies_wait<1>(); // of the next step
    SYNC();           // and of all threads; the lines may be written anew
    if (owns && NT == 1 && s + 1 < T) FACTORS_OF(s + 1)
    bar_wait(s_bar + 8 * now, s >> 1 & 1);
    if (THREAD == 0) bar_expect(s_bar + 8 * (now ^ 1), NT * STILE);
    if (owns)
#pragma unroll
      for (int n = 0; n < NT; n++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          float sum = keep[n][j];
          const float* const part = (const float*)(smem + AT_SUMS + (now * NT + n) * STILE) + local * 8 + 2 * q + j;
#pragma unroll
          for (int p = 0; p < 8; p++) sum += part[p * HC * 8];
          dh[n][j] = sum;
        }
  }
  if (owns) {
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int row = row0 + n * 8 + 2 * q + j;
        if (row < N) d_carry[((size_t)direction * N + row) * H + column] = dh[n][j];
      }
#pragma unroll
    for (int i = 0; i < 4; i++) ((float*)(smem + AT_LEFT))[(i * HC + local) * 4 + q] = total[i];
  }
  SYNC();
  WRITE_TOTALS(AT_LEFT)
  cluster_sync(); // no block leaves before what it has sent has arrived
}
