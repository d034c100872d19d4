// The way back of GRUs over time in one launch, one or two in opposite directions.
//
// A block forms the cotangents of its own columns' gates, multiplies them by its columns of U, and sends every block
// of the cluster the part of dh that is that one's. So sums stay in float32, in an order that is always the same.
//
// Constants: see place.cuh; HALF_D: whether d_hidden is in half precision, float32 otherwise; HAS_DA: whether there
// are cotangents of the preactivations.
#include "primitives.cuh"

#include "place.cuh"
#define WARPS 8
#define THREADS 256
#define MT (H / 16 / WARPS)     // tiles of 16 units of dh of a warp: those of the block of its number
#define KB (3 * HC / 16)        // tiles of 16 terms of a product
#define DTILE (3 * HC * 16)     // bytes of the operand of 8 rows, [3 HC][8]
#define STILE (8 * HC * 8 * 4)  // bytes of the parts of dh of 8 rows, [8 blocks][HC][8]
#define LONG (4 * HC + 16)      // a line of float32
#define DLINE (HALF_D ? LINE : LONG)

// Shared memory, in bytes
#define AT_SUMS (2 * NT * DTILE)
#define AT_READ (AT_SUMS + 2 * NT * STILE)
#define AT_D (LINES(5))                      // in what is read: h, a, r, z, U h + c; d_hidden; d_preactivation
#define AT_DA (AT_D + ROWS * DLINE)
#define READ_BYTES (AT_DA + HAS_DA * ROWS * LONG)
#define AT_LEFT (AT_READ + 2 * READ_BYTES)
#define AT_BARS (AT_LEFT + LINES(4))
#define SHARED_BYTES (AT_BARS + 16)

#define GATES(d) const u16 *a##d, const u16 *r##d, const u16 *z##d, const u16 *v##d
#define OF_MODEL_GATES(d) \
  OF_MODEL(a##d, T * N * H) OF_MODEL(r##d, T * N * H) OF_MODEL(z##d, T * N * H) OF_MODEL(v##d, T * N * H)
#if S == 2
#define PICK(name) (direction ? name##1 : name##0)
#else
#define PICK(name) name##0
#endif

// w: [S, H, 3H], U; d_last: [S, N, H]; before: [S, T, N, H]; a, r, z, v of each direction: [T, N, H] f16;
// d_hidden: [T, N, S H], over the scale; d_pre: [T, N, S H].
// product: [S, T, N, 3H]; projections: [T, N, S 3H]; d_carry: [S, N, H];
// totals: sums over steps and a cluster's rows of the cotangents of r, z, a and U h + c, [S, CLUSTERS, 4, H].
// All have an axis of models in front.
KERNEL gru_backward(const u16* w, const float* d_last, const u16* before, GATES(0),
#if S == 2
                    GATES(1),
#endif
                    const void* d_hidden, const float* scale,
#if HAS_DA
                    const float* d_pre,
#endif
                    u16* product, u16* projections, float* d_carry, float* totals) {
  SHARED
  OF_MODEL(w, S * H * 3 * H)
  OF_MODEL(d_last, S * N * H)
  OF_MODEL(before, S * T * N * H)
  OF_MODEL_GATES(0)
#if S == 2
  OF_MODEL_GATES(1)
#endif
  d_hidden = (const char*)d_hidden + (size_t)MODEL * (HALF_D ? 2 : 4) * T * N * S * H;
  OF_MODEL(scale, 1)
#if HAS_DA
  OF_MODEL(d_pre, T * N * S * H)
#endif
  OF_MODEL(product, S * T * N * 3 * H)
  OF_MODEL(projections, T * N * S * 3 * H)
  OF_MODEL(d_carry, S * N * H)
  OF_MODEL(totals, S * CLUSTERS * 4 * H)
  const int lane = THREAD & 31, warp = THREAD >> 5, mg = warp % MG, half = warp / MG & 1;
  const bool owns = warp < 2 * MG; // one column of two rows of each tile
  const int g = lane >> 2, q = lane & 3;
  const u32 rank = cluster_rank();
  const int direction = DIRECTION, row0 = FIRST_ROW;
  const int local = mg * 16 + half * 8 + g, column = rank * HC + local;
  const u32 s_d = smem_of(smem), s_read = s_d + AT_READ, s_bar = s_d + AT_BARS;
  u32 a[MT][KB][4]; // the weights, for good
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

  // What step s reads: five lines a row of 16 bits, and those of cotangents.
#define READ(s)                                                                                                    \
  {                                                                                                                \
    if ((s) < T) {                                                                                                 \
      const size_t t_rows = (size_t)IN_TIME(T - 1 - (s)) * N + row0;                                               \
      const u32 to = s_read + ((s)&1) * READ_BYTES;                                                                \
      for (int i = thread_here(); i < 5 * ROWS * PIECES; i += THREADS) {                                                  \
        const int piece = i % PIECES, line = i / PIECES, kind = line / ROWS, row = line % ROWS;                    \
        const bool is_row = row0 + row < N;                                                                        \
        const u16* const from = kind == 0   ? before + (size_t)direction * T * N * H                               \
                                : kind == 1 ? PICK(a)                                                              \
                                : kind == 2 ? PICK(r)                                                              \
                                : kind == 3 ? PICK(z)                                                              \
                                            : PICK(v);                                                             \
        copy16(to + line * LINE + piece * 16, from + (is_row ? (t_rows + row) * H + rank * HC + piece * 8 : 0),    \
               is_row);                                                                                            \
      }                                                                                                            \
      READ_D(d_hidden, HALF_D ? 2 : 4, AT_D, DLINE)                                                                \
      READ_DA                                                                                                      \
    }                                                                                                              \
    copies_commit();                                                                                               \
  }
#define READ_D(array, bytes, at, width)                                                                            \
  for (int i = thread_here(); i < ROWS * HC * (bytes) / 16; i += THREADS) {                                               \
    const int piece = i % (HC * (bytes) / 16), row = i / (HC * (bytes) / 16);                                      \
    const bool is_row = row0 + row < N;                                                                            \
    const size_t number = (t_rows + row) * (S * H) + direction * H + rank * HC;                                    \
    copy16(to + at + row * (width) + piece * 16,                                                                   \
           (const char*)(array) + (is_row ? number * (bytes) + piece * 16 : 0), is_row);                           \
  }
#if HAS_DA
#define READ_DA READ_D(d_pre, 4, AT_DA, LONG)
#else
#define READ_DA
#endif
  // What multiplies dh on its way to the cotangents: found before dh is known.
  float to_a[NT][2], to_r[NT][2], to_z[NT][2], of_r[NT][2], of_z[NT][2], d_out[NT][2], d_a[NT][2];
#define FACTORS(s)                                                                                                    \
  _Pragma("unroll") for (int n = 0; n < NT; n++)                                                                      \
    _Pragma("unroll") for (int j = 0; j < 2; j++) {                                                                   \
      const int row = n * 8 + 2 * q + j;                                                                              \
      const unsigned char* const read = smem + AT_READ + ((s)&1) * READ_BYTES;                                        \
      const unsigned char* const own = read + row * LINE + local * 2;                                                 \
      const float m = tanh_(of_f16(*(const u16*)(own + LINES(1))));                                                   \
      const float r = of_f16(*(const u16*)(own + LINES(2))), z = of_f16(*(const u16*)(own + LINES(3)));               \
      to_a[n][j] = (1.f - z) * (1.f - m * m);                                                                         \
      to_r[n][j] = of_f16(*(const u16*)(own + LINES(4))) * r * (1.f - r);                                             \
      to_z[n][j] = (of_bf16(*(const u16*)own) - m) * z * (1.f - z);                                                   \
      of_r[n][j] = r;                                                                                                 \
      of_z[n][j] = z;                                                                                                 \
      const unsigned char* const d = read + AT_D + row * DLINE;                                                       \
      d_out[n][j] = scale[0] * (HALF_D ? of_f16(((const u16*)d)[local]) : ((const float*)d)[local]);                    \
      d_a[n][j] = HAS_DA ? ((const float*)(read + AT_DA + row * LONG))[local] : 0.f;                                  \
    }
  READ(0)
  READ(1)
  copies_wait<1>();
  cluster_sync();
  if (owns && NT == 1) FACTORS(0)

  for (int s = 0; s < T; s++) {
    const int now = s & 1;
    float keep[NT][2];
    if (owns) {
      if (NT > 1) FACTORS(s) // registers have no room for them before
#pragma unroll
      for (int n = 0; n < NT; n++) {
        const u32 line = (n * 8 + 2 * q) * LINE + local * 2;
        float d[4][2]; // cotangents of r, z, U h + c, a
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const float x = dh[n][j] + d_out[n][j];
          d[3][j] = x * to_a[n][j] + d_a[n][j];
          d[0][j] = d[3][j] * to_r[n][j];
          d[1][j] = x * to_z[n][j];
          d[2][j] = d[3][j] * of_r[n][j];
          keep[n][j] = x * of_z[n][j];
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const u32 both = pack_bf16(d[i][0], d[i][1]);
          if (i < 3) *(u32*)(smem + (now * NT + n) * DTILE + (i * HC + local) * 16 + q * 4) = both;
          *(u16*)(smem + AT_LEFT + LINES(i) + line) = (u16)both;
          *(u16*)(smem + AT_LEFT + LINES(i) + line + LINE) = (u16)(both >> 16);
          total[i] += d[i][0] + d[i][1];
        }
      }
    }
    SYNC(); // the operand and the lines are there
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
          send2(to, sums[m][2 * i], sums[m][2 * i + 1], to_bar + 8 * now);
        }
    }
    // While the parts of dh are on their way: six arrays, for which four kinds of lines are there.
    const size_t t_rows = (size_t)IN_TIME(T - 1 - s) * N + row0;
    for (int i = thread_here(); i < 6 * ROWS * PIECES; i += THREADS) {
      const int piece = i % PIECES, line = i / PIECES, kind = line / ROWS, row = line % ROWS;
      const int from = (kind < 3 ? kind : kind == 5 ? 3 : kind - 3) * ROWS + row;
      const size_t at = kind < 3 ? ((size_t)direction * T * N + t_rows + row) * (3 * H) + kind * H
                                 : (t_rows + row) * (S * 3 * H) + direction * 3 * H + (kind - 3) * H;
      if (row0 + row < N)
        *(uint4*)((kind < 3 ? product : projections) + at + rank * HC + piece * 8) =
            *(const uint4*)(smem + AT_LEFT + from * LINE + piece * 16);
    }
    READ(s + 2)
    copies_wait<1>(); // of the next step
    SYNC();           // and of all threads; the lines may be written anew
    if (owns && NT == 1 && s + 1 < T) FACTORS(s + 1)
    bar_wait(s_bar + 8 * now, s >> 1 & 1);
    if (THREAD == 0) bar_expect(s_bar + 8 * (now ^ 1), NT * STILE);
    if (owns)
#pragma unroll
      for (int n = 0; n < NT; n++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const float* const part = (const float*)(smem + AT_SUMS + (now * NT + n) * STILE) + local * 8 + 2 * q + j;
          float sum = keep[n][j];
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
  for (int i = THREAD; i < 4 * HC; i += THREADS) {
    const float* const of_quad = (const float*)(smem + AT_LEFT) + i * 4;
    const size_t cluster = direction * CLUSTERS + row0 / ROWS;
    const int kind = i / HC, place = kind < 2 ? kind : 5 - kind; // r, z, U h + c, a: in the order of the biases
    totals[(cluster * 4 + place) * H + rank * HC + i % HC] = of_quad[0] + of_quad[1] + of_quad[2] + of_quad[3];
  }
  cluster_sync(); // no block leaves before what it has sent has arrived
}
