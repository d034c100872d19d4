// The kernel of forward.cu and forward_l2.cu, which differ in how the blocks of the same rows exchange states. They say so
// in these names:
//   PRODUCTS              tiles of rows whose products the compiler unrolls
//   STATE_BUFFERS         states of all rows of a block's in shared memory, BAR_BYTES of which stand for barriers
//   EXCHANGE_READS, _MAKES arrays more
//   EXCHANGE_INIT, EXCHANGE_PLACES  what a thread needs for it, before and after the state of step 0 is there
//   EXCHANGE_BEGIN, _END  before the first step and after the last
//   STATE_WAIT(s)         until the state that step s starts from is in shared memory, at STATE(n) of a tile
//   READ_WAIT             until the projections of a step are in shared memory
//   STATE_SEND(n, sent)   two rows of a column of the new state of a tile
//   STATE_SENT(s)         when all of the block's threads have sent theirs
//   READ_MORE(s)          reads projections of a step after s
#pragma once
#define KG (8 / MG < H / 32 ? 8 / MG : H / 32) // warps along the terms of a product
#define KT (H / 16 / KG)                       // tiles of 16 terms of a warp
#define THREADS (32 * MG * KG)
#define TILE (H * 16)                          // bytes of the state of 8 rows, [H][8]
#define KINDS (SAVED ? 5 : 2)                  // arrays that a step leaves: h', a, r, z, U h + c
static_assert(KT % 2 == 0 && KG >= 2, "two tiles are read at once, two warps finish the columns");

// Shared memory, in bytes
#define AT_PARTS (STATE_BUFFERS * NT * TILE)
#define AT_READ (AT_PARTS + NT * MG * KG * 12 * 32 * 4)
#define AT_LEFT (AT_READ + 2 * LINES(3))
#define AT_BARS (AT_LEFT + LINES(KINDS))
#define SHARED_BYTES (AT_BARS + BAR_BYTES)

#if SAVED
#define GATES(d) u16 *a##d, u16 *r##d, u16 *z##d, u16 *v##d
#define GATE(k, d) (k == 0 ? a##d : k == 1 ? r##d : k == 2 ? z##d : v##d)
#define OF_MODEL_GATES(d) \
  OF_MODEL(a##d, T * N * H) OF_MODEL(r##d, T * N * H) OF_MODEL(z##d, T * N * H) OF_MODEL(v##d, T * N * H)
#else
#define GATES(d) u16* a##d
#define GATE(k, d) a##d
#define OF_MODEL_GATES(d) OF_MODEL(a##d, T * N * H)
#endif

// x: [T, N, S 3H] f16; w: [S, 3H, H], U transposed; bias: [S, H]; h0: [S, N, H];
// factors: what a state is multiplied by before a product, and what a product is multiplied by.
// hidden: [T, N, S H]; a, r, z, v of each direction: [T, N, H] f16; last: [S, N, H]; before: [S, T, N, H].
// All have an axis of models in front.
FORWARD_KERNEL gru_forward(const u16* x, const u16* w, const float* bias, const float* h0, const float* factors,
                   EXCHANGE_READS u16* hidden, GATES(0),
#if S == 2
                   GATES(1),
#endif
                   float* last
#if SAVED
                   , u16* before
#endif
                   EXCHANGE_MAKES
) {
  SHARED
  OF_MODEL(x, T * N * S * 3 * H)
  OF_MODEL(w, S * 3 * H * H)
  OF_MODEL(bias, S * H)
  OF_MODEL(h0, S * N * H)
  OF_MODEL(factors, 2)
  OF_MODEL(hidden, T * N * S * H)
  OF_MODEL(last, S * N * H)
  OF_MODEL_GATES(0)
#if S == 2
  OF_MODEL_GATES(1)
#endif
#if SAVED
  OF_MODEL(before, S * T * N * H)
#endif
  const int lane = THREAD & 31, warp = THREAD >> 5, mg = warp % MG, kg = warp / MG;
  const int g = lane >> 2, q = lane & 3;
  const u32 rank = RANK;
  const int direction = DIRECTION, row0 = FIRST_ROW;
  // A thread finishes one column of two rows of each tile, in the warps of kg 0 and 1.
  const int half = kg & 1, local = mg * 16 + 8 * half + g, column = rank * HC + local;
  const u32 s_h = smem_of(smem), s_read = s_h + AT_READ, s_bar = s_h + AT_BARS;
  float* const parts = (float*)(smem + AT_PARTS);
#if F16
  const float of_state = factors[0], of_product = factors[1];
#else
  const float of_state = 1.f, of_product = 1.f;
#endif

  u32 a[3][KT][4]; // the weights, for good
#pragma unroll
  for (int gate = 0; gate < 3; gate++)
#pragma unroll
    for (int k = 0; k < KT; k++) {
      const int unit = direction * 3 * H + gate * H + rank * HC + mg * 16 + g;
      const u32* p = (const u32*)(w + (size_t)unit * H + (kg * KT + k) * 16) + q;
      a[gate][k][0] = p[0];
      a[gate][k][1] = p[8 * H / 2];
      a[gate][k][2] = p[4];
      a[gate][k][3] = p[8 * H / 2 + 4];
    }
  EXCHANGE_INIT
  const float* const first = h0 + (size_t)direction * N * H;
  for (int i = THREAD; i < NT * H * 8; i += THREADS) { // the state of step 0
    const int tile = i / (H * 8), k = i / 8 % H, row = row0 + tile * 8 + i % 8;
    ((u16*)smem)[i] = (u16)pack_operand(row < N ? of_state * first[(size_t)row * H + k] : 0.f, 0.f);
  }
  const float c = bias[direction * H + column];
  float h[NT][2];
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int row = row0 + n * 8 + 2 * q + j;
      h[n][j] = row < N ? first[(size_t)row * H + column] : 0.f;
#if SAVED
      if (kg < 2 && row < N)
        before[((size_t)(direction * T + IN_TIME(0)) * N + row) * H + column] = (u16)pack_operand(F16 ? clip(h[n][j]) : h[n][j], 0.f);
#endif
    }
  EXCHANGE_PLACES

  // Projections of a step: [2][3][ROWS] lines.
#define READ(s)                                                                                     \
  {                                                                                                 \
    if ((s) < T)                                                                                    \
      for (int i = thread_here(); i < 3 * ROWS * PIECES; i += THREADS) {                                   \
        const int piece = i % PIECES, line = i / PIECES, gate = line / ROWS, row = line % ROWS;     \
        const size_t at = ((size_t)IN_TIME(s) * N + row0 + row) * (S * 3 * H) + direction * 3 * H;  \
        const bool is_row = row0 + row < N;                                                         \
        copy16(s_read + (((s)&1) * 3 * ROWS + line) * LINE + piece * 16,                            \
               x + (is_row ? at + gate * H + rank * HC + piece * 8 : 0), is_row);                   \
      }                                                                                             \
    copies_commit();                                                                                \
  }
  EXCHANGE_BEGIN

  for (int s = 0; s < T; s++) {
    const int now = s & 1, next = now ^ 1;
    STATE_WAIT(s)
#pragma unroll PRODUCTS
    for (int n = 0; n < NT; n++) {
      float sums[3][4] = {};
#pragma unroll
      for (int k = 0; k < KT; k += 2) {
        u32 b0, b1, b2, b3;
        ldsm4t(s_h + STATE(n) + ((kg * KT + k) * 16 + lane) * 16, b0, b1, b2, b3);
#pragma unroll
        for (int gate = 0; gate < 3; gate++) mma(sums[gate], a[gate][k], b0, b1);
#pragma unroll
        for (int gate = 0; gate < 3; gate++) mma(sums[gate], a[gate][k + 1], b2, b3);
      }
      float* const p = parts + ((n * MG + mg) * KG + kg) * 12 * 32 + lane;
#pragma unroll
      for (int gate = 0; gate < 3; gate++)
#pragma unroll
        for (int i = 0; i < 4; i++) p[(gate * 4 + i) * 32] = sums[gate][i];
    }
    READ_WAIT
    SYNC(); // the parts of the sums are there, and the projections; all have read the state
    if (kg < 2) {
#pragma unroll
      for (int n = 0; n < NT; n++) {
        const float* const p = parts + (n * MG + mg) * KG * 12 * 32 + lane;
        const u32 own = (n * 8 + 2 * q) * LINE + local * 2;
        const unsigned char* const read = smem + AT_READ + now * LINES(3) + own;
        unsigned char* const left = smem + AT_LEFT + own;
        float pre[2], r[2], z[2], v[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
          float u[3], w_x[3];
#pragma unroll
          for (int gate = 0; gate < 3; gate++) {
            u[gate] = 0;
#pragma unroll
            for (int i = 0; i < KG; i++) u[gate] += p[(i * 12 + gate * 4 + 2 * half + j) * 32];
            u[gate] *= of_product;
            w_x[gate] = of_f16(*(const u16*)(read + LINES(gate) + j * LINE));
          }
          r[j] = sigmoid(w_x[0] + u[0]);
          z[j] = sigmoid(w_x[1] + u[1]);
          v[j] = u[2] + c;
          pre[j] = w_x[2] + r[j] * v[j];
          // In this form an update gate of one keeps the state to the last bit.
          h[n][j] = (1.f - z[j]) * tanh_(pre[j]) + z[j] * h[n][j];
        }
        const u32 sent = pack_operand(of_state * h[n][0], of_state * h[n][1]);
        STATE_SEND(n, sent)
        const u32 state = F16 ? pack_f16(clip(h[n][0]), clip(h[n][1])) : sent;
#define LEAVE(kind, both)                                   \
  {                                                         \
    const u32 b = both;                                     \
    *(u16*)(left + LINES(kind)) = (u16)b;                   \
    *(u16*)(left + LINES(kind) + LINE) = (u16)(b >> 16);    \
  }
        LEAVE(0, state)
        LEAVE(1, pack_f16(clip(pre[0]), clip(pre[1])))
#if SAVED
        LEAVE(2, pack_f16(r[0], r[1]))
        LEAVE(3, pack_f16(z[0], z[1]))
        LEAVE(4, pack_f16(clip(v[0]), clip(v[1])))
#endif
      }
    }
    SYNC(); // the lines are there; the parts and the projections of this step may be written anew
    STATE_SENT(s)
    for (int i = thread_here(); i < (KINDS + SAVED) * ROWS * PIECES; i += THREADS) {
      const int piece = i % PIECES, line = i / PIECES, kind = line / ROWS, row = row0 + line % ROWS;
      const int t = IN_TIME(kind < KINDS ? s : s + 1); // the last kind: h' again, as what the next step starts from
      const int from = kind < KINDS ? line : line % ROWS;
      const size_t at = (size_t)t * N + row;
      u16* to;
#if S == 2
#define PICK(k) (direction ? GATE(k, 1) : GATE(k, 0))
#else
#define PICK(k) GATE(k, 0)
#endif
      if (kind == 0)
        to = hidden + at * (S * H) + direction * H;
      else if (kind == 1)
        to = PICK(0) + at * H;
#if SAVED
      else if (kind == 5)
        to = before + ((size_t)direction * T * N + at) * H;
      else
        to = (kind == 2 ? PICK(1) : kind == 3 ? PICK(2) : PICK(3)) + at * H;
#else
      else
        continue;
#endif
      if (row < N && (kind < KINDS || s + 1 < T))
        *(uint4*)(to + rank * HC + piece * 8) = *(const uint4*)(smem + AT_LEFT + from * LINE + piece * 16);
    }
    READ_MORE(s)
  }
  if (kg < 2)
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int row = row0 + n * 8 + 2 * q + j;
        if (row < N) last[((size_t)direction * N + row) * H + column] = h[n][j];
      }
  EXCHANGE_END
}
