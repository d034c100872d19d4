// GRUs over time in one launch, one or two in opposite directions.
//
// No cluster waits for another. A block's weights stay in registers. Its part of the state goes to all blocks of the
// cluster by asynchronous stores into their shared memory, whose barriers count bytes. A unit of work is a step of one of
// the cluster's tiles of 8 rows, which take turns: while the states of one are on their way, the next is multiplied.
//
// Why nothing is overwritten too soon: threads meet once a unit, between its product and its gates. What a unit leaves for
// its gates or for the writing, the next but one writes anew; by then all have met in the one between, behind those gates
// and before that writing. A state's buffer is written two steps on, when all blocks have the state between.
//
// With MOVES_AMID, which needs two tiles, a thread writes what unit u - 2 has left, and reads the projections of u + 2, amid
// the product of unit u. Other threads may still compute the gates of u - 1 then, so projections have four buffers.
//
// Constants: see place.cuh; SAVED: whether there will be a backward pass; F16: operands in half precision, over
// powers of two, in place of bfloat16.
#include "primitives.cuh"

#include "lanes.cuh"
#include "place.cuh"
#include "parts.cuh"
#define EXCHANGE_READS
#define EXCHANGE_MAKES
#define BUFFERS (MOVES_AMID ? 4 : 3) // of projections

// Shared memory, in bytes: states of two steps, parts of sums of two units, projections of BUFFERS, what two leave, and
// the carry
#define AT_PARTS (2 * NT * TILE)
#define AT_READ (AT_PARTS + 2 * PART)
#define AT_LEFT (AT_READ + BUFFERS * 3 * 8 * LINE)
#define AT_HELD (AT_LEFT + 2 * KINDS * 8 * LINE)
#define AT_BARS (AT_HELD + NT * 8 * HC * 4)
#define SHARED_BYTES (AT_BARS + NT * 16)
#include "forward.cuh"

KERNEL gru_forward(ARRAYS) {
  SHARED
  OF_MODEL_ARRAYS
  const int lane = THREAD & 31, warp = THREAD >> 5, mg = warp % MG, kg = warp / MG;
  const int g = lane >> 2, q = lane & 3;
  const u32 rank = cluster_rank();
  const int direction = DIRECTION, row0 = FIRST_ROW;
  // A thread finishes one column of two rows of each tile, in the warps of kg 0 and 1.
  const int half = kg & 1, local = mg * 16 + 8 * half + g, column = rank * HC + local;
  const u32 s_h = smem_of(smem), s_read = s_h + AT_READ, s_bar = s_h + AT_BARS;
  // Where a thread's part of the lines is; lanes have the addresses of different ones.
  const u32 of_lines = (lane & 7) * LINE + (mg * 16 + 8 * half) * 2;
#if F16
  const float of_state = factors[0], of_product = factors[1];
#else
  const float of_state = 1.f, of_product = 1.f;
#endif

  HOLD_WEIGHTS(a)
  if (THREAD == 0) {
    for (int i = 0; i < 2 * NT; i++) bar_init(s_bar + 8 * i, 1);
    for (int n = 0; n < NT; n++) bar_expect(s_bar + 16 * n + 8, TILE); // of step 1
    bar_init_fence();
  }
  const float* const first = h0 + (size_t)direction * N * H;
  for (int i = THREAD; i < NT * H * 8; i += THREADS) { // the state of step 0
    const int tile = i / (H * 8), k = i / 8 % H, row = row0 + tile * 8 + i % 8;
    ((u16*)smem)[tile * TILE + i % (H * 8)] = (u16)pack_operand(row < N ? of_state * first[(size_t)row * H + k] : 0.f, 0.f);
  }
  const float c = bias[direction * H + column];
  if (kg < 2)
    for (int n = 0; n < NT; n++) {
      float h[2];
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int row = row0 + n * 8 + 2 * q + j;
        h[j] = row < N ? first[(size_t)row * H + column] : 0.f;
#if SAVED
        if (row < N)
          before[((size_t)(direction * T + IN_TIME(0)) * N + row) * H + column] = (u16)pack_operand(F16 ? clip(h[j]) : h[j], 0.f);
#endif
      }
      OWN_CARRY(n) = pair_of(h[0], h[1]);
    }
  u32 to[GROUP]; // the blocks' shared memory
#pragma unroll
  for (int p = 0; p < GROUP; p++) to[p] = map_to(s_h, p);

  const int piece = lane & 7, of_tile = (lane >> 3) + (warp == 7 ? 4 : 0);
  FIND_MOVED(of_tile, piece)
// The projections of unit u.
#define READ(u)                                              \
  {                                                          \
    const int tile = (u) % NT;                               \
    if (warp >= 6 && (u) < T * NT) {                         \
      _Pragma("unroll") for (int gate = 0; gate < 3; gate++) \
        copy16(s_read + (((u) % BUFFERS * 3 + gate) * 8 + of_tile) * LINE + 16 * piece, moved + 2 * gate * H, row0 + tile * 8 + of_tile < N); \
      ADVANCE(tile)                                          \
    }                                                        \
    copies_commit();                                         \
  }
// What unit u has left.
#define WRITE(u)                                                                                                    \
  if (warp < KINDS + SAVED) {                                                                                       \
    const int tile = (u) % NT;                                                                                      \
    const unsigned char* const from = smem + AT_LEFT + (((u)&1) * KINDS + warp % 5) * 8 * LINE + of_tile * LINE + 16 * piece; \
    if (warp < 5 || (u) < (T - 1) * NT)                                                                             \
      _Pragma("unroll") for (int i = 0; i < 8; i += 4)                                                              \
        if (row0 + tile * 8 + of_tile + i < N) *(uint4*)(moved + i * row_bytes) = *(const uint4*)(from + i * LINE); \
    ADVANCE(tile)                                                                                                   \
  }
  READ(0)
  READ(1)
  cluster_sync();

#pragma unroll 1
  for (int u = 0; u < T * NT; u++) {
    const int s = u / NT, n = u % NT, now = s & 1;
    const u32 state = (n * 2 + now) * TILE, next_state = (n * 2 + (now ^ 1)) * TILE;
    const u32 bar = AT_BARS + 16 * n + 8 * now, next_bar = AT_BARS + 16 * n + 8 * (now ^ 1);
    if (s) {
      bar_wait(s_h + bar, ((s - now) >> 1 & 1) ^ (now ? 0 : 1));
      if (THREAD == 0) bar_expect(s_h + next_bar, TILE);
    }
    float sums[3][4] = {};
#pragma unroll
    for (int k = 0; k < KT; k += 2) {
      if (MOVES_AMID && k == KT / 4 * 2) {
        if (u > 1) WRITE(u - 2)
        READ(u + 2)
      }
      u32 b0, b1, b2, b3;
      ldsm4t(s_h + state + ((kg * KT + k) * 16 + lane) * 16, b0, b1, b2, b3);
#pragma unroll
      for (int gate = 0; gate < 3; gate++) mma(sums[gate], a[gate][k], b0, b1);
#pragma unroll
      for (int gate = 0; gate < 3; gate++) mma(sums[gate], a[gate][k + 1], b2, b3);
    }
    float2* const parts = (float2*)(smem + AT_PARTS + (u & 1) * PART + mg * 2 * (KG - 1) * 3 * 256) + lane;
    HAND_OVER(sums, parts)
    copies_wait<MOVES_AMID ? 2 : 1>();
    SYNC(); // the parts of the sums are there, and the projections; all have read the state
    if (kg < 2) {
      u32 w_x[4]; // of a gate, of two rows; the last is not used
      ldsm4t(s_read + (u % BUFFERS * 3 + (lane >> 3) % 3) * 8 * LINE + of_lines, w_x[0], w_x[1], w_x[2], w_x[3]);
      const float2 before_ = OWN_CARRY(n);
      float h[2] = {before_.x, before_.y}, sum[3][2], pre[2], r[2], z[2], v[2];
      ADD_PARTS(sum, sums, parts)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        r[j] = sigmoid(of_f16((u16)(w_x[0] >> 16 * j)) + of_product * sum[0][j]);
        z[j] = sigmoid(of_f16((u16)(w_x[1] >> 16 * j)) + of_product * sum[1][j]);
        v[j] = of_product * sum[2][j] + c;
        pre[j] = of_f16((u16)(w_x[2] >> 16 * j)) + r[j] * v[j];
        // In this form an update gate of one keeps the state to the last bit.
        h[j] = (1.f - z[j]) * tanh_(pre[j]) + z[j] * h[j];
      }
      const u32 sent = pack_operand(of_state * h[0], of_state * h[1]);
      if (s + 1 < T)
#pragma unroll
        for (int p = 0; p < GROUP; p++) send(to[p] + next_state + column * 16 + q * 4, sent, to[p] + next_bar);
      OWN_CARRY(n) = pair_of(h[0], h[1]);
      const u32 s_left = s_h + AT_LEFT + (u & 1) * KINDS * 8 * LINE + of_lines;
      stsm1t(s_left, F16 ? pack_f16(clip(h[0]), clip(h[1])) : sent);
      const u32 left = pack_f16(clip(pre[0]), clip(pre[1]));
#if SAVED
      stsm4t(s_left + (1 + (lane >> 3)) * 8 * LINE, left, pack_f16(r[0], r[1]), pack_f16(z[0], z[1]), pack_f16(clip(v[0]), clip(v[1])));
#else
      stsm1t(s_left + 8 * LINE, left);
#endif
    }
    if (!MOVES_AMID) {
      if (u) WRITE(u - 1)
      READ(u + 2)
    }
  }
  if (MOVES_AMID) WRITE(T * NT - 2)
  SYNC(); // the lines of the last unit are there
  WRITE(T * NT - 1)
  if (kg < 2)
    for (int n = 0; n < NT; n++) {
      const float2 h = OWN_CARRY(n);
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int row = row0 + n * 8 + 2 * q + j;
        if (row < N) last[((size_t)direction * N + row) * H + column] = j ? h.y : h.x;
      }
    }
  cluster_sync(); // no block leaves before what it has sent has arrived
}
