// What backward.cu and backward_l2.cu have in common: the arrays, what a step reads, its cotangents, and what it leaves.
// They say in these names how they differ:
//   READ_ROWS              rows that are read and left at once
//   AT_READ, AT_LEFT       where in shared memory lies what two of these read, and the lines that one leaves
//   EXCHANGE_READS, _MAKES arrays in which blocks meet
#pragma once
#define WARPS 8
#define THREADS 256
#define LONG (4 * HC + 16)      // a line of float32
#define DLINE (HALF_D ? LINE : LONG)
// Operands in half precision, F16, take the place of TF32, which has as many bits: all arrays of floats are float32 then.
#define LEFT_LINE (F16 ? LONG : LINE)
#define LEFT(i) ((i) * READ_ROWS * LEFT_LINE)
#define LEFT_PIECES (HC * (F16 ? 4 : 2) / 16)
#if F16
typedef float left_t;
#else
typedef u16 left_t;
#endif

// What is read, in bytes of shared memory: h, a, r, z, U h + c; d_hidden; d_preactivation
#define OF_READ(kinds) ((kinds) * READ_ROWS * LINE)
#define AT_D OF_READ(5)
#define AT_DA (AT_D + READ_ROWS * DLINE)
#define READ_BYTES (AT_DA + HAS_DA * READ_ROWS * LONG)

#define GATES(d) const u16 *a##d, const u16 *r##d, const u16 *z##d, const u16 *v##d
#define OF_MODEL_GATES(d) \
  OF_MODEL(a##d, T * N * H) OF_MODEL(r##d, T * N * H) OF_MODEL(z##d, T * N * H) OF_MODEL(v##d, T * N * H)
#if S == 2
#define ALL_GATES GATES(0), GATES(1)
#define OF_MODEL_ALL_GATES OF_MODEL_GATES(0) OF_MODEL_GATES(1)
#define PICK(name) (direction ? name##1 : name##0)
#else
#define ALL_GATES GATES(0)
#define OF_MODEL_ALL_GATES OF_MODEL_GATES(0)
#define PICK(name) name##0
#endif
#if HAS_DA
#define D_PRE const float *d_pre,
#define OF_MODEL_D_PRE OF_MODEL(d_pre, T * N * S * H)
#define COPY_D_PRE(to) COPY_D(d_pre, 4, (to) + AT_DA, LONG)
#else
#define D_PRE
#define OF_MODEL_D_PRE
#define COPY_D_PRE(to)
#endif

// w: [S, H, 3H], U, in half precision over a power of two; d_last: [S, N, H]; before: [S, T, N, H]; a, r, z, v of each direction: [T, N, H] f16;
// d_hidden: [T, N, S H], over the scale; d_pre: [T, N, S H]; scale: that of d_hidden and, in half precision, of w.
// product: [S, T, N, 3H]; projections: [T, N, S 3H]; d_carry: [S, N, H];
// totals: sums over steps and a cluster's rows of the cotangents of r, z, a and U h + c, [S, CLUSTERS, 4, H].
// All have an axis of models in front.
#define ARRAYS                                                                                                    \
  const u16 *w, const float *d_last, const u16 *before, ALL_GATES, const void *d_hidden, const float *scale,      \
      D_PRE EXCHANGE_READS left_t *product, left_t *projections, float *d_carry, float *totals EXCHANGE_MAKES
#define OF_MODEL_ARRAYS                                                                     \
  OF_MODEL(w, S * H * 3 * H)                                                                \
  OF_MODEL(d_last, S * N * H)                                                               \
  OF_MODEL(before, S * T * N * H)                                                           \
  OF_MODEL_ALL_GATES                                                                        \
  d_hidden = (const char*)d_hidden + (size_t)MODEL * (HALF_D ? 2 : 4) * T * N * S * H;      \
  OF_MODEL(scale, (1 + F16))                                                                \
  OF_MODEL_D_PRE                                                                            \
  OF_MODEL(product, S * T * N * 3 * H)                                                      \
  OF_MODEL(projections, T * N * S * 3 * H)                                                  \
  OF_MODEL(d_carry, S * N * H)                                                              \
  OF_MODEL(totals, S * CLUSTERS * 4 * H)

// Copies what step s reads of rows from `row0_` on: five lines a row of 16 bits, and those of cotangents.
#define COPY_READ(s, row0_, to)                                                                           \
  {                                                                                                       \
    const int first = row0_;                                                                              \
    const size_t t_rows = (size_t)IN_TIME(T - 1 - (s)) * N + first;                                       \
    for (int i = thread_here(); i < 5 * READ_ROWS * PIECES; i += THREADS) {                               \
      const int piece = i % PIECES, line = i / PIECES, kind = line / READ_ROWS, row = line % READ_ROWS;   \
      const bool is_row = first + row < N;                                                                \
      const u16* const from = kind == 0   ? before + (size_t)direction * T * N * H                        \
                              : kind == 1 ? PICK(a)                                                       \
                              : kind == 2 ? PICK(r)                                                       \
                              : kind == 3 ? PICK(z)                                                       \
                                          : PICK(v);                                                      \
      copy16((to) + line * LINE + piece * 16,                                                             \
             from + (is_row ? (t_rows + row) * H + rank * HC + piece * 8 : 0), is_row);                   \
    }                                                                                                     \
    COPY_D(d_hidden, HALF_D ? 2 : 4, (to) + AT_D, DLINE)                                                  \
    COPY_D_PRE(to)                                                                                        \
  }
#define COPY_D(array, bytes, to, width)                                                                   \
  for (int i = thread_here(); i < READ_ROWS * HC * (bytes) / 16; i += THREADS) {                          \
    const int piece = i % (HC * (bytes) / 16), row = i / (HC * (bytes) / 16);                             \
    const bool is_row = first + row < N;                                                                  \
    const size_t number = (t_rows + row) * (S * H) + direction * H + rank * HC;                           \
    copy16((to) + row * (width) + piece * 16,                                                             \
           (const char*)(array) + (is_row ? number * (bytes) + piece * 16 : 0), is_row);                  \
  }

// What multiplies dh on its way to the cotangents of a thread's two rows of a tile, and what is added: arrays of as many
// tiles, and those of tile n, whose rows are the ones from `row_` on of those that lie in shared memory at `at_`.
#define FACTORS(tiles) \
  float to_a[tiles][2], to_r[tiles][2], to_z[tiles][2], of_r[tiles][2], of_z[tiles][2], d_out[tiles][2], d_a[tiles][2];
#define FIND_FACTORS(at_, row_, n)                                                                        \
  _Pragma("unroll") for (int j = 0; j < 2; j++) {                                                         \
    const int row = (row_) + 2 * q + j;                                                                   \
    const unsigned char* const read = smem + (at_);                                                       \
    const unsigned char* const own = read + row * LINE + local * 2;                                       \
    const float m = tanh_(of_f16(*(const u16*)(own + OF_READ(1))));                                       \
    const float r = of_f16(*(const u16*)(own + OF_READ(2))), z = of_f16(*(const u16*)(own + OF_READ(3))); \
    to_a[n][j] = (1.f - z) * (1.f - m * m);                                                               \
    to_r[n][j] = of_f16(*(const u16*)(own + OF_READ(4))) * r * (1.f - r);                                 \
    to_z[n][j] = (of_operand(*(const u16*)own) - m) * z * (1.f - z);                                      \
    of_r[n][j] = r;                                                                                       \
    of_z[n][j] = z;                                                                                       \
    const unsigned char* const d = read + AT_D + row * DLINE;                                             \
    d_out[n][j] = scale[0] * (HALF_D ? of_f16(((const u16*)d)[local]) : ((const float*)d)[local]);        \
    d_a[n][j] = HAS_DA ? ((const float*)(read + AT_DA + row * LONG))[local] : 0.f;                        \
  }
// Cotangents of r, z, U h + c and a of row j, from dh; `kept` of dh is that of the step before already.
#define FIND_COTANGENTS(d, dh_, kept, n, j)    \
  {                                            \
    const float x = dh_ + d_out[n][j];         \
    d[3][j] = x * to_a[n][j] + d_a[n][j];      \
    d[0][j] = d[3][j] * to_r[n][j];            \
    d[1][j] = x * to_z[n][j];                  \
    d[2][j] = d[3][j] * of_r[n][j];            \
    kept = x * of_z[n][j];                     \
  }
// Of two rows of a tile, the largest cotangent that is multiplied: raises those of the block, of 8 rows.
#define RAISE_LARGEST(d, of_block)                                                    \
  _Pragma("unroll") for (int j = 0; j < 2; j++) {                                     \
    u32 most = size_of(d[0][j]);                                                      \
    most = larger(most, larger(size_of(d[1][j]), size_of(d[2][j])));                  \
    _Pragma("unroll") for (int mask = 4; mask < 32; mask *= 2) most = larger(most, from_xor(most, mask)); \
    if (g == 0) raise((of_block) + 2 * q + j, most);                                  \
  }

// Writes what step s has left of rows from `row0_` on: six arrays, for which four kinds of lines are there.
#define WRITE_LEFT(s, row0_)                                                                                   \
  {                                                                                                            \
    const size_t t_rows = (size_t)IN_TIME(T - 1 - (s)) * N + (row0_);                                          \
    for (int i = thread_here(); i < 6 * READ_ROWS * LEFT_PIECES; i += THREADS) {                               \
      const int piece = i % LEFT_PIECES, line = i / LEFT_PIECES, kind = line / READ_ROWS, row = line % READ_ROWS; \
      const int from = (kind < 3 ? kind : kind == 5 ? 3 : kind - 3) * READ_ROWS + row;                         \
      const size_t at = kind < 3 ? ((size_t)direction * T * N + t_rows + row) * (3 * H) + kind * H             \
                                 : (t_rows + row) * (S * 3 * H) + direction * 3 * H + (kind - 3) * H;          \
      if ((row0_) + row < N)                                                                                   \
        *(uint4*)((kind < 3 ? product : projections) + at + rank * HC + piece * (16 / (int)sizeof(left_t))) =  \
            *(const uint4*)(smem + AT_LEFT + from * LEFT_LINE + piece * 16);                                   \
    }                                                                                                          \
  }
// Writes sums over steps and rows, of which those of four threads lie side by side in shared memory.
#define WRITE_TOTALS(at_)                                                                                      \
  for (int i = THREAD; i < 4 * HC; i += THREADS) {                                                             \
    const float* const of_quad = (const float*)(smem + (at_)) + i * 4;                                         \
    const size_t cluster = direction * CLUSTERS + row0 / ROWS;                                                 \
    const int kind = i / HC, place = kind < 2 ? kind : 5 - kind; /* in the order of the biases */              \
    totals[(cluster * 4 + place) * H + rank * HC + i % HC] = of_quad[0] + of_quad[1] + of_quad[2] + of_quad[3]; \
  }
