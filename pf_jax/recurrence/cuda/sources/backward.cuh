// The kernel of backward.cu and backward_l2.cu, which differ in what the blocks of the same rows exchange, and how. They
// say so in these names:
//   OPERAND_BYTES, SUMS_BYTES, BAR_BYTES  of shared memory for operands of products, parts of sums, and barriers
//   EXCHANGE_READS, _MAKES  arrays more
//   BY_TILE               whether what multiplies dh of a tile is found only when it is needed
//   WEIGHTS               the weights, for good
//   EXCHANGE_INIT, EXCHANGE_PLACES, EXCHANGE_BEGIN, _END  what is to be done before the first step, and after the last
//   COTANGENT(n, i, both) the cotangents of two rows of a column of a tile: of r, z or U h + c; where operands are in half
//                         precision OPERANDS in its place, when the block's cotangents are there in float32
//   PRODUCTS_SEND(s)      when all of the block's threads have found theirs
//   SUMS_WAIT(s)          until there is what dh is the sum of
//   SUM(n, j, sum)        adds it
#pragma once
#define WARPS 8
#define THREADS 256
#define LONG (4 * HC + 16)      // a line of float32
#define DLINE (HALF_D ? LINE : LONG)
// Operands in half precision, F16, take the place of TF32, which has as many bits: all arrays of floats are float32 then.
#define LEFT_LINE (F16 ? LONG : LINE)
#define LEFT(i) ((i) * ROWS * LEFT_LINE)
#define LEFT_PIECES (HC * (F16 ? 4 : 2) / 16)
#if F16
typedef float left_t;
#else
typedef u16 left_t;
#endif

// Shared memory, in bytes
#define AT_SUMS OPERAND_BYTES
#define AT_READ (AT_SUMS + SUMS_BYTES)
#define AT_D (LINES(5))                      // in what is read: h, a, r, z, U h + c; d_hidden; d_preactivation
#define AT_DA (AT_D + ROWS * DLINE)
#define READ_BYTES (AT_DA + HAS_DA * ROWS * LONG)
#define AT_LEFT (AT_READ + 2 * READ_BYTES)
#define AT_LARGEST (AT_LEFT + LEFT(4))       // of each row, for two steps; behind them the scale of w
#define AT_BARS (AT_LARGEST + F16 * (2 * ROWS * 4 + 16))
#define SHARED_BYTES (AT_BARS + BAR_BYTES)

#define GATES(d) const u16 *a##d, const u16 *r##d, const u16 *z##d, const u16 *v##d
#define OF_MODEL_GATES(d) \
  OF_MODEL(a##d, T * N * H) OF_MODEL(r##d, T * N * H) OF_MODEL(z##d, T * N * H) OF_MODEL(v##d, T * N * H)
#if S == 2
#define PICK(name) (direction ? name##1 : name##0)
#else
#define PICK(name) name##0
#endif

// w: [S, H, 3H], U, in half precision over a power of two; d_last: [S, N, H]; before: [S, T, N, H]; a, r, z, v of each direction: [T, N, H] f16;
// d_hidden: [T, N, S H], over the scale; d_pre: [T, N, S H]; scale: that of d_hidden and, in half precision, of w.
// product: [S, T, N, 3H]; projections: [T, N, S 3H]; d_carry: [S, N, H];
// totals: sums over steps and a cluster's rows of the cotangents of r, z, a and U h + c, [S, CLUSTERS, 4, H].
// All have an axis of models in front.
BACKWARD_KERNEL gru_backward(const u16* w, const float* d_last, const u16* before, GATES(0),
#if S == 2
                    GATES(1),
#endif
                    const void* d_hidden, const float* scale,
#if HAS_DA
                    const float* d_pre,
#endif
                    EXCHANGE_READS left_t* product, left_t* projections, float* d_carry, float* totals EXCHANGE_MAKES) {
  SHARED
  OF_MODEL(w, S * H * 3 * H)
  OF_MODEL(d_last, S * N * H)
  OF_MODEL(before, S * T * N * H)
  OF_MODEL_GATES(0)
#if S == 2
  OF_MODEL_GATES(1)
#endif
  d_hidden = (const char*)d_hidden + (size_t)MODEL * (HALF_D ? 2 : 4) * T * N * S * H;
  OF_MODEL(scale, (1 + F16))
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
  const u32 rank = RANK;
  const int direction = DIRECTION, row0 = FIRST_ROW;
  const int local = mg * 16 + half * 8 + g, column = rank * HC + local;
  const u32 s_d = smem_of(smem), s_read = s_d + AT_READ, s_bar = s_d + AT_BARS;
  WEIGHTS
  EXCHANGE_INIT
  EXCHANGE_PLACES
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
#define FACTORS(s) _Pragma("unroll") for (int n = 0; n < NT; n++) FACTORS_OF(s, n)
#define FACTORS_OF(s, n)                                                                                              \
    _Pragma("unroll") for (int j = 0; j < 2; j++) {                                                                   \
      const int row = n * 8 + 2 * q + j;                                                                              \
      const unsigned char* const read = smem + AT_READ + ((s)&1) * READ_BYTES;                                        \
      const unsigned char* const own = read + row * LINE + local * 2;                                                 \
      const float m = tanh_(of_f16(*(const u16*)(own + LINES(1))));                                                   \
      const float r = of_f16(*(const u16*)(own + LINES(2))), z = of_f16(*(const u16*)(own + LINES(3)));               \
      to_a[n][j] = (1.f - z) * (1.f - m * m);                                                                         \
      to_r[n][j] = of_f16(*(const u16*)(own + LINES(4))) * r * (1.f - r);                                             \
      to_z[n][j] = (of_operand(*(const u16*)own) - m) * z * (1.f - z);                                                 \
      of_r[n][j] = r;                                                                                                 \
      of_z[n][j] = z;                                                                                                 \
      const unsigned char* const d = read + AT_D + row * DLINE;                                                       \
      d_out[n][j] = scale[0] * (HALF_D ? of_f16(((const u16*)d)[local]) : ((const float*)d)[local]);                    \
      d_a[n][j] = HAS_DA ? ((const float*)(read + AT_DA + row * LONG))[local] : 0.f;                                  \
    }
  READ(0)
  READ(1)
  copies_wait<1>();
  EXCHANGE_BEGIN
  if (owns && NT == 1) FACTORS(0)

  for (int s = 0; s < T; s++) {
    const int now = s & 1;
    float keep[NT][2];
    if (owns) {
      if (NT > 1 && !BY_TILE) FACTORS(s) // registers have no room for them before
#pragma unroll
      for (int n = 0; n < NT; n++) {
        if (NT > 1 && BY_TILE) FACTORS_OF(s, n) // nor for those of all tiles
        const u32 line = (n * 8 + 2 * q) * LEFT_LINE + local * (u32)sizeof(left_t);
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
#if F16
          *(float*)(smem + AT_LEFT + LEFT(i) + line) = d[i][0];
          *(float*)(smem + AT_LEFT + LEFT(i) + line + LEFT_LINE) = d[i][1];
#else
          const u32 both = pack_bf16(d[i][0], d[i][1]);
          if (i < 3) COTANGENT(n, i, both)
          *(u16*)(smem + AT_LEFT + LINES(i) + line) = (u16)both;
          *(u16*)(smem + AT_LEFT + LINES(i) + line + LINE) = (u16)(both >> 16);
#endif
          total[i] += d[i][0] + d[i][1];
        }
#if F16
#pragma unroll
        for (int j = 0; j < 2; j++) {
          u32 most = size_of(d[0][j]);
          most = larger(most, larger(size_of(d[1][j]), size_of(d[2][j])));
#pragma unroll
          for (int mask = 4; mask < 32; mask *= 2) most = larger(most, from_xor(most, mask));
          if (g == 0) raise((u32*)(smem + AT_LARGEST) + (now * NT + n) * 8 + 2 * q + j, most);
        }
#endif
      }
    }
    SYNC(); // the operand and the lines are there
#if F16
    OPERANDS
#endif
    PRODUCTS_SEND(s)
    // While that is on its way: six arrays, for which four kinds of lines are there.
    const size_t t_rows = (size_t)IN_TIME(T - 1 - s) * N + row0;
    for (int i = thread_here(); i < 6 * ROWS * LEFT_PIECES; i += THREADS) {
      const int piece = i % LEFT_PIECES, line = i / LEFT_PIECES, kind = line / ROWS, row = line % ROWS;
      const int from = (kind < 3 ? kind : kind == 5 ? 3 : kind - 3) * ROWS + row;
      const size_t at = kind < 3 ? ((size_t)direction * T * N + t_rows + row) * (3 * H) + kind * H
                                 : (t_rows + row) * (S * 3 * H) + direction * 3 * H + (kind - 3) * H;
      if (row0 + row < N)
        *(uint4*)((kind < 3 ? product : projections) + at + rank * HC + piece * (16 / (int)sizeof(left_t))) =
            *(const uint4*)(smem + AT_LEFT + from * LEFT_LINE + piece * 16);
    }
    READ(s + 2)
    copies_wait<1>(); // of the next step
    SYNC();           // and of all threads; the lines may be written anew
    if (owns && NT == 1 && s + 1 < T) FACTORS(s + 1)
    SUMS_WAIT(s)
    if (owns)
#pragma unroll
      for (int n = 0; n < NT; n++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          float sum = keep[n][j];
          SUM(n, j, sum)
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
  EXCHANGE_END
}
