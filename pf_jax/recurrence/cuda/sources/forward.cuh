// What forward.cu and forward_l2.cu have in common: the arrays, and what a step leaves. They say in these names how they
// differ:
//   AT_LEFT                where in shared memory lie the lines that a step leaves
//   EXCHANGE_READS, _MAKES arrays in which blocks meet
#pragma once
#define KG (8 / MG < H / 32 ? 8 / MG : H / 32) // warps along the terms of a product
#define KT (H / 16 / KG)                       // tiles of 16 terms of a warp
#define WARPS (MG * KG)
#define THREADS (32 * WARPS)
#define TILE (H * 16)                          // bytes of the state of 8 rows, [H][8]
#define KINDS (SAVED ? 5 : 2)                  // arrays that a step leaves: h', a, r, z, U h + c
static_assert(KT % 2 == 0 && KG >= 2, "two tiles are read at once, two warps finish the columns");

#if SAVED
#define GATES(d) u16 *a##d, u16 *r##d, u16 *z##d, u16 *v##d
#define GATE(k, d) (k == 0 ? a##d : k == 1 ? r##d : k == 2 ? z##d : v##d)
#define OF_MODEL_GATES(d) \
  OF_MODEL(a##d, T * N * H) OF_MODEL(r##d, T * N * H) OF_MODEL(z##d, T * N * H) OF_MODEL(v##d, T * N * H)
#define BEFORE , u16* before
#define OF_MODEL_BEFORE OF_MODEL(before, S * T * N * H)
#else
#define GATES(d) u16* a##d
#define GATE(k, d) a##d
#define OF_MODEL_GATES(d) OF_MODEL(a##d, T * N * H)
#define BEFORE
#define OF_MODEL_BEFORE
#endif
#if S == 2
#define ALL_GATES GATES(0), GATES(1)
#define OF_MODEL_ALL_GATES OF_MODEL_GATES(0) OF_MODEL_GATES(1)
#define PICK(k) (direction ? GATE(k, 1) : GATE(k, 0))
#else
#define ALL_GATES GATES(0)
#define OF_MODEL_ALL_GATES OF_MODEL_GATES(0)
#define PICK(k) GATE(k, 0)
#endif

// x: [T, N, S 3H] f16; w: [S, 3H, H], U transposed; bias: [S, H]; h0: [S, N, H];
// factors: what a state is multiplied by before a product, and what a product is multiplied by.
// hidden: [T, N, S H]; a, r, z, v of each direction: [T, N, H] f16; last: [S, N, H]; before: [S, T, N, H].
// All have an axis of models in front.
#define ARRAYS                                                                                                       \
  const u16 *x, const u16 *w, const float *bias, const float *h0, const float *factors, EXCHANGE_READS u16 *hidden, \
      ALL_GATES, float *last BEFORE EXCHANGE_MAKES
#define OF_MODEL_ARRAYS              \
  OF_MODEL(x, T * N * S * 3 * H)     \
  OF_MODEL(w, S * 3 * H * H)         \
  OF_MODEL(bias, S * H)              \
  OF_MODEL(h0, S * N * H)            \
  OF_MODEL(factors, 2)               \
  OF_MODEL(hidden, T * N * S * H)    \
  OF_MODEL(last, S * N * H)          \
  OF_MODEL_ALL_GATES                 \
  OF_MODEL_BEFORE

// The block's columns of the weights, in a thread's registers for good.
#define HOLD_WEIGHTS(a)                                                          \
  u32 a[3][KT][4];                                                               \
  _Pragma("unroll") for (int gate = 0; gate < 3; gate++)                         \
  _Pragma("unroll") for (int k = 0; k < KT; k++) {                               \
    const int unit = direction * 3 * H + gate * H + rank * HC + mg * 16 + g;     \
    const u32* p = (const u32*)(w + (size_t)unit * H + (kg * KT + k) * 16) + q;  \
    a[gate][k][0] = p[0];                                                        \
    a[gate][k][1] = p[8 * H / 2];                                                \
    a[gate][k][2] = p[4];                                                        \
    a[gate][k][3] = p[8 * H / 2 + 4];                                            \
  }

// Copies the projections of `rows` rows from `row0_` on of step s to three lines a row in shared memory, from a line on.
#define COPY_PROJECTIONS(s, rows, row0_, to, first_line)                                             \
  for (int i = thread_here(); i < 3 * (rows) * PIECES; i += THREADS) {                               \
    const int piece = i % PIECES, line = i / PIECES, gate = line / (rows), row = line % (rows);      \
    const size_t at = ((size_t)IN_TIME(s) * N + row0_ + row) * (S * 3 * H) + direction * 3 * H;      \
    const bool is_row = row0_ + row < N;                                                             \
    copy16((to) + ((first_line) + line) * LINE + piece * 16, x + (is_row ? at + gate * H + rank * HC + piece * 8 : 0), is_row); \
  }

// Writes what step s has left of `rows` rows from `row0_` on; the last kind is h' again, as what the next step starts from.
#if SAVED
#define KIND_5 else if (kind == 5) to = before + ((size_t)direction * T * N + at) * H;
#define OTHER_GATES to = (kind == 2 ? PICK(1) : kind == 3 ? PICK(2) : PICK(3)) + at * H;
#else
#define KIND_5
#define OTHER_GATES continue;
#endif
#define WRITE_LINES(s, rows, row0_)                                                                  \
  for (int i = thread_here(); i < (KINDS + SAVED) * (rows) * PIECES; i += THREADS) {                 \
    const int piece = i % PIECES, line = i / PIECES, kind = line / (rows), row = row0_ + line % (rows); \
    const int t = IN_TIME(kind < KINDS ? s : s + 1);                                                 \
    const int from = kind < KINDS ? line : line % (rows);                                            \
    const size_t at = (size_t)t * N + row;                                                           \
    u16* to;                                                                                         \
    if (kind == 0)                                                                                   \
      to = hidden + at * (S * H) + direction * H;                                                    \
    else if (kind == 1)                                                                              \
      to = PICK(0) + at * H;                                                                         \
    KIND_5 else OTHER_GATES                                                                          \
    if (row < N && (kind < KINDS || s + 1 < T))                                                      \
      *(uint4*)(to + rank * HC + piece * 8) = *(const uint4*)(smem + AT_LEFT + from * LINE + piece * 16); \
  }
