// What forward.cu and forward_l2.cu have in common: the arrays, and what a step leaves. They say in EXCHANGE_READS and
// EXCHANGE_MAKES in which arrays blocks meet.
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

// What a warp moves between shared memory and an array over time, of which it has an address that goes on from tile to
// tile: the first write a kind each of what units leave, the last again h', as what the next step starts from; the others
// read projections. A lane has a piece of 16 bytes of a row, and in blocks of 64 columns of the fourth behind it.
#if SAVED
#define MOVED_GATES \
  if (warp >= 2 && warp < 6) moved = (char*)(warp == 2 ? PICK(1) : warp == 3 ? PICK(2) : warp == 4 ? PICK(3) : before + (size_t)direction * T * N * H);
#else
#define MOVED_GATES
#endif
#define FIND_MOVED(row_of_tile, piece_of_row)                                                                         \
  char* moved = (char*)(warp == 0 ? hidden + direction * H : warp == 1 ? PICK(0) : (u16*)x + direction * 3 * H);      \
  MOVED_GATES                                                                                                         \
  const int row_bytes = 2 * H * (warp == 0 ? S : warp < 6 ? 1 : 3 * S);                                               \
  moved += ((long long)IN_TIME(warp == 5) * N + row0 + (row_of_tile)) * row_bytes + 2 * rank * HC + 16 * (piece_of_row);
// From tile n to the next, or to the first of the next step.
#define ADVANCE(n) moved += row_bytes * ((n) + 1 < NT ? 8 : (direction ? -N : N) - 8 * (NT - 1));
