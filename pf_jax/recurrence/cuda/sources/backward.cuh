// What backward.cu and backward_l2.cu have in common: the arrays, what a step reads, its cotangents, and what it leaves.
// They say in EXCHANGE_READS and EXCHANGE_MAKES in which arrays blocks meet.
#pragma once
#define WARPS 8
#define THREADS 256
#define LONG (4 * HC + 16)      // a line of float32
#define DLINE (HALF_D ? LINE : LONG)
// Operands in half precision, F16, take the place of TF32, which has as many bits: all arrays of floats are float32 then.
#define LEFT_LINE (F16 ? LONG : LINE)
#define LEFT(i) ((i) * 8 * LEFT_LINE)
#if F16
typedef float left_t;
#else
typedef u16 left_t;
#endif

// What is read, in bytes of shared memory: h, a, r, z, U h + c; d_hidden; d_preactivation
#define OF_READ(kinds) ((kinds) * 8 * LINE)
#define AT_D OF_READ(5)
#define AT_DA (AT_D + 8 * DLINE)
#define READ_BYTES (AT_DA + HAS_DA * 8 * LONG)

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
#else
#define D_PRE
#define OF_MODEL_D_PRE
#endif

// Where a block works. Asked for anew where it stands, which takes no registers over the whole loop.
#define PLACE_OF_BLOCK                                                            \
  const int own_block = MODELS == 1 ? block_here() : block_here() % MODEL_BLOCKS; \
  const int of_direction = own_block / GROUP, rank = own_block % GROUP;           \
  const int direction = S == 1 ? 0 : of_direction / CLUSTERS, row0 = of_direction % CLUSTERS * ROWS;

// w: [S, H, 3H], U, in half precision over a power of two; d_last: [S, N, H]; before: [S, T, N, H]; a, r, z, v of each direction: [T, N, H] f16;
// d_hidden: [T, N, S H], over the scale; d_pre: [T, N, S H]; scale: that of d_hidden and, in half precision, of w.
// product: [S, T, N, 3H]; projections: [T, N, S 3H]; d_carry: [S, N, H];
// totals: sums over steps and a cluster's rows of the cotangents of r, z, a and U h + c, [S, CLUSTERS, 4, H].
// All have an axis of models in front.
#define ARRAYS                                                                                               \
  const u16 *w, const float *d_last, const u16 *before, ALL_GATES, const void *d_hidden, const float *scale, \
      D_PRE EXCHANGE_READS left_t *product, left_t *projections, float *d_carry, float *totals EXCHANGE_MAKES
#define OF_MODEL_ARRAYS                                                                \
  OF_MODEL(w, S * H * 3 * H)                                                           \
  OF_MODEL(d_last, S * N * H)                                                          \
  OF_MODEL(before, S * T * N * H)                                                      \
  OF_MODEL_ALL_GATES                                                                   \
  d_hidden = (const char*)d_hidden + (size_t)MODEL * (HALF_D ? 2 : 4) * T * N * S * H; \
  OF_MODEL(scale, (1 + F16))                                                           \
  OF_MODEL_D_PRE                                                                       \
  OF_MODEL(product, S * T * N * 3 * H)                                                 \
  OF_MODEL(projections, T * N * S * 3 * H)                                             \
  OF_MODEL(d_carry, S * N * H)                                                         \
  OF_MODEL(totals, S * CLUSTERS * 4 * H)

// What multiplies dh on its way to the cotangents of a thread's two rows of a tile, and what is added.
#define FACTORS float to_a[2], to_r[2], to_z[2], of_r[2], of_z[2], d_out[2], d_a[2];
// Those of the tile whose lines lie in shared memory at `at_`; the columns that the warp finishes are at `own_`, in bytes.
#define FIND_FACTORS(at_, own_)                                                                        \
  {                                                                                                    \
    u32 x[4], y[4]; /* of two rows: h, a, r, z; U h + c, and d_hidden where it is in half precision */ \
    const u32 lines = smem_of(smem) + (at_) + (lane & 7) * LINE + (own_);                              \
    ldsm4t(lines + (lane >> 3) * 8 * LINE, x[0], x[1], x[2], x[3]);                                    \
    ldsm4t(lines + (4 + HALF_D * (lane >> 3 & 1)) * 8 * LINE, y[0], y[1], y[2], y[3]);                 \
    _Pragma("unroll") for (int j = 0; j < 2; j++) {                                                    \
      const float h = of_operand((u16)(x[0] >> 16 * j)), m = tanh_(of_f16((u16)(x[1] >> 16 * j)));     \
      const float r = of_f16((u16)(x[2] >> 16 * j)), z = of_f16((u16)(x[3] >> 16 * j));                \
      to_a[j] = (1.f - z) * (1.f - m * m);                                                             \
      to_r[j] = of_f16((u16)(y[0] >> 16 * j)) * r * (1.f - r);                                         \
      to_z[j] = (h - m) * z * (1.f - z);                                                               \
      of_r[j] = r;                                                                                     \
      of_z[j] = z;                                                                                     \
      const int row = 2 * q + j;                                                                       \
      const unsigned char* const read = smem + (at_);                                                  \
      d_out[j] = scale[0] * (HALF_D ? of_f16((u16)(y[1] >> 16 * j)) : ((const float*)(read + AT_D + row * DLINE))[local]); \
      d_a[j] = HAS_DA ? ((const float*)(read + AT_DA + row * LONG))[local] : 0.f;                      \
    }                                                                                                  \
  }
// Cotangents of r, z, U h + c and a of row j, from dh; `kept` of dh is that of the step before already.
#define FIND_COTANGENTS(d, dh_, kept, j) \
  {                                      \
    const float x = dh_ + d_out[j];      \
    d[3][j] = x * to_a[j] + d_a[j];      \
    d[0][j] = d[3][j] * to_r[j];         \
    d[1][j] = x * to_z[j];               \
    d[2][j] = d[3][j] * of_r[j];         \
    kept = x * of_z[j];                  \
  }
// Of two rows of a tile, the largest cotangent that is multiplied: raises those of the block, of 8 rows.
#define RAISE_LARGEST(d, of_block)                                                                        \
  _Pragma("unroll") for (int j = 0; j < 2; j++) {                                                         \
    u32 most = size_of(d[0][j]);                                                                          \
    most = larger(most, larger(size_of(d[1][j]), size_of(d[2][j])));                                      \
    _Pragma("unroll") for (int mask = 4; mask < 32; mask *= 2) most = larger(most, from_xor(most, mask)); \
    if (g == 0) raise((of_block) + 2 * q + j, most);                                                      \
  }

// Writes sums over steps and rows, of which those of four threads lie side by side in shared memory.
#define WRITE_TOTALS(at_)                                                                                       \
  for (int i = THREAD; i < 4 * HC; i += THREADS) {                                                              \
    const float* const of_quad = (const float*)(smem + (at_)) + i * 4;                                          \
    const size_t cluster = direction * CLUSTERS + row0 / ROWS;                                                  \
    const int kind = i / HC, place = kind < 2 ? kind : 5 - kind; /* in the order of the biases */               \
    totals[(cluster * 4 + place) * H + rank * HC + i % HC] = of_quad[0] + of_quad[1] + of_quad[2] + of_quad[3]; \
  }
