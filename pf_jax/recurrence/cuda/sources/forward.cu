// GRUs over time in one launch, one or two in opposite directions.
//
// No cluster waits for another. A block's weights stay in registers. Its part of the state goes to the eight blocks
// of the cluster by asynchronous stores into their shared memory, whose barriers count bytes.
//
// Constants: see place.cuh; SAVED: whether there will be a backward pass; F16: operands in half precision, over
// powers of two, in place of bfloat16.
#include "primitives.cuh"

#include "place.cuh"
#define EXCHANGE_READS
#define EXCHANGE_MAKES

// Shared memory, in bytes: states of two steps, parts of sums, projections of two steps, and what a step leaves
#define AT_PARTS (2 * NT * TILE)
#define AT_READ (AT_PARTS + NT * MG * KG * 12 * 32 * 4)
#define AT_LEFT (AT_READ + 2 * LINES(3))
#define AT_BARS (AT_LEFT + LINES(KINDS))
#define SHARED_BYTES (AT_BARS + 16)
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
  float* const parts = (float*)(smem + AT_PARTS);
#if F16
  const float of_state = factors[0], of_product = factors[1];
#else
  const float of_state = 1.f, of_product = 1.f;
#endif

  HOLD_WEIGHTS(a)
  if (THREAD == 0) {
    for (int i = 0; i < 2; i++) bar_init(s_bar + 8 * i, 1);
    bar_expect(s_bar + 8, NT * TILE); // of step 1
    bar_init_fence();
  }
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
  u32 to_h[8], to_bar[8];
#pragma unroll
  for (int p = 0; p < 8; p++) {
    to_h[p] = map_to(s_h + column * 16 + q * 4, p);
    to_bar[p] = map_to(s_bar, p);
  }

#define READ(s)                                                                          \
  {                                                                                      \
    if ((s) < T) COPY_PROJECTIONS(s, ROWS, row0, s_read, ((s)&1) * 3 * ROWS)     \
    copies_commit();                                                                     \
  }
  READ(0)
  READ(1)
  cluster_sync();

  for (int s = 0; s < T; s++) {
    const int now = s & 1, next = now ^ 1;
    if (s) {
      bar_wait(s_bar + 8 * now, ((s - now) >> 1 & 1) ^ (now ? 0 : 1));
      if (THREAD == 0) bar_expect(s_bar + 8 * next, NT * TILE);
    }
#pragma unroll
    for (int n = 0; n < NT; n++) {
      float sums[3][4] = {};
#pragma unroll
      for (int k = 0; k < KT; k += 2) {
        u32 b0, b1, b2, b3;
        ldsm4t(s_h + (now * NT + n) * TILE + ((kg * KT + k) * 16 + lane) * 16, b0, b1, b2, b3);
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
    copies_wait<1>();
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
        if (s + 1 < T) {
#pragma unroll
          for (int p8 = 0; p8 < 8; p8++) send(to_h[p8] + (next * NT + n) * TILE, sent, to_bar[p8] + 8 * next);
        }
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
    WRITE_LINES(s, ROWS, row0)
    READ(s + 2)
  }
  if (kg < 2)
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int row = row0 + n * 8 + 2 * q + j;
        if (row < N) last[((size_t)direction * N + row) * H + column] = h[n][j];
      }
  cluster_sync(); // no block leaves before what it has sent has arrived
}
