// A rollout of one layer of GRUs in one launch: rows that read given tokens at every step and, behind them, rows that
// read given tokens or their own last samples.
//
// As in forward.cu a cluster owns a few rows for good, and a block some columns, whose weights stay in registers. All
// rows of a cluster are of one kind. Every block has the whole state of its cluster's rows, so it computes the logits
// of all classes by itself and tokens need no exchange: all blocks add in the same order, and choose the same.
//
// A unit of work is a step of one of the cluster's tiles of 8 rows, which take turns as in forward.cu. Where its rows
// sample: the readout's product; then the recurrent one, behind which hide the choice of the token and the reading of its
// row of the table; then the gates.
//
// Constants: see rollout.cuh; TABLE_SHARED: whether a block has its columns of the table in shared memory; MOVES_AMID: as in
// forward.cu, for clusters of two tiles and more; ONE_CHOOSES: whether one warp chooses for all, which do not wait for it
// before their gates; the table is in shared memory then.
#include "primitives.cuh"

#include "lanes.cuh"
#include "parts.cuh"
#define ROLLOUT_KERNEL KERNEL
#define EXCHANGE_FIELDS
#define EXCHANGE_READS
#define EXCHANGE_MAKES
#define EXCHANGE_VALUES
#define ENTRY (3 * HC + 8)                     // numbers of a token's row of the table in shared memory

// Shared memory, in bytes: states of two steps; parts of sums and lines of two units; scores of one, and what is added to
// those of two; the readout's kernel, the table, the bias and the carry
#define AT_PARTS (2 * NT * TILE)
#define AT_LEFT (AT_PARTS + 2 * PART)
#define AT_SCORES (AT_LEFT + 2 * 5 * 8 * LINE)
#define AT_NOISE (AT_SCORES + VK * 8 * SCORES * 4)
#define AT_READOUT (AT_NOISE + 2 * 8 * SCORES * 4)
#define AT_TABLE (AT_READOUT + VM * 16 * H * 2)
#define AT_BIAS (AT_TABLE + (TABLE_SHARED ? (TOKENS + 1) * ENTRY * 4 : 0))
#define AT_HELD (AT_BIAS + HC * 4)
#define AT_BARS (AT_HELD + NT * 8 * HC * 4)
#define AT_TOKENS (AT_BARS + NT * 16) // of two units
#define SHARED_BYTES (AT_TOKENS + ONE_CHOOSES * 2 * 8 * 4)
#define CHOSEN(u) ((int*)(smem + AT_TOKENS) + ((u)&1) * 8) // what a unit's rows read
#define CHOOSER (WARPS - 1)
#define CHOOSES (!ONE_CHOOSES || !samples || warp == CHOOSER) // whether a warp knows the tokens
#include "rollout.cuh"
#include "readout.cuh"
static_assert(!ONE_CHOOSES || TABLE_SHARED, "gates read the table's rows behind the product");

// The rows of a cluster over time.
template <int tiles, bool samples> DEV void run(const Arrays& arrays, unsigned char* smem, int row0, int rows) {
  const int lane = THREAD & 31, warp = THREAD >> 5, mg = warp % MG, kg = warp / MG;
  const int g = lane >> 2, q = lane & 3;
  const u32 rank = cluster_rank();
  // A thread finishes one column of two rows of each tile, in the warps of kg 0 and 1.
  const int half = kg & 1, local = mg * 16 + 8 * half + g, column = rank * HC + local;
  const u32 s_h = smem_of(smem);
  // Where a thread's part of the lines is; in stores of four kinds at once lanes have the addresses of different ones.
  const u32 s_left = s_h + AT_LEFT + (lane & 7) * LINE + (mg * 16 + 8 * half) * 2;
  float* const bias = (float*)(smem + AT_BIAS);
  float* const scores = (float*)(smem + AT_SCORES);
  const int states = samples ? T + 1 : T; // that are exchanged
  const bool moves_amid = MOVES_AMID && tiles > 1;
#if F16
  const float of_state = arrays.factors[0], of_product = arrays.factors[1];
#else
  const float of_state = 1.f, of_product = 1.f;
#endif

  HOLD_WEIGHTS(a)
  if (THREAD == 0) {
    for (int i = 0; i < 2 * tiles; i++) bar_init(s_h + AT_BARS + 8 * i, 1);
    for (int n = 0; n < tiles; n++) bar_expect(s_h + AT_BARS + 16 * n + 8, TILE); // of step 1
    bar_init_fence();
  }
  for (int i = THREAD; i < tiles * 8 * H; i += THREADS) { // the state of step 0
    const int k = i % H, row = i / H;
    const float h = row < rows ? of_state * arrays.carry[(size_t)(row0 + row) * H + k] : 0.f;
    ((u16*)smem)[row / 8 * TILE + k * 8 + row % 8] = (u16)pack_operand(h, 0.f);
  }
  if (samples) HOLD_READOUT(arrays.readout)
  if (TABLE_SHARED)
    for (int i = THREAD; i < (TOKENS + 1) * 3 * HC; i += THREADS) {
      const int c = i % HC, gate = i / HC % 3, token = i / HC / 3;
      ((float*)(smem + AT_TABLE))[token * ENTRY + gate * HC + c] = arrays.table[(size_t)(token * 3 + gate) * H + rank * HC + c];
    }
  for (int i = THREAD; i < HC; i += THREADS) bias[i] = arrays.bias[rank * HC + i];
  if (kg < 2)
    for (int n = 0; n < tiles; n++) {
      float h[2];
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int row = n * 8 + 2 * q + j;
        h[j] = row < rows ? arrays.carry[(size_t)(row0 + row) * H + column] : 0.f;
        if (SAVED && row < rows) arrays.before[(size_t)(row0 + row) * H + column] = (u16)pack_operand(F16 ? clip(h[j]) : h[j], 0.f);
      }
      OWN_CARRY(n) = pair_of(h[0], h[1]);
    }

// What row `lane / 4` of unit u is to read, -1 for its sample.
#define GIVEN(u) \
  ((u) < T * tiles && (u) % tiles * 8 + g < rows ? arrays.tokens[(size_t)((u) / tiles) * N + row0 + (u) % tiles * 8 + g] : 0)
// What is added to the logits of unit u, those of the step before: 8 rows of scores.
#define READ_NOISE(u)                                                                                  \
  if (samples) {                                                                                       \
    if ((u) >= tiles && (u) < (T + 1) * tiles) {                                                       \
      const int first = (u) % tiles * 8;                                                               \
      const float* const noise = arrays.noise + ((size_t)((u) / tiles - 1) * SAMPLING + row0 - READING + first) * CLASSES; \
      _Pragma("unroll 1") for (int i = thread_here(); i < 8 * CLASSES; i += THREADS)                   \
        if (first + i / CLASSES < rows)                                                                \
          copy4(s_h + AT_NOISE + ((((u)&1) * 8 + i / CLASSES) * SCORES + i % CLASSES) * 4, noise + i); \
    }                                                                                                  \
    copies_commit();                                                                                   \
  }
  // What a warp moves from shared memory to an array over time: a kind of what units leave, the last again h', as what the
  // next step starts from. A lane has a piece of 16 bytes of a row, and of the fourth behind it.
  const int piece = lane & 7, of_tile = lane >> 3;
  u16* moved = warp == 0 ? arrays.hidden : warp == 1 ? arrays.a : warp == 2 ? arrays.r : warp == 3 ? arrays.z : warp == 4 ? arrays.v : arrays.before;
  moved += ((size_t)(warp == 5 ? N : 0) + row0 + of_tile) * H + rank * HC + 8 * piece;
// What unit u has left.
#define WRITE(u)                                                                                                     \
  if (warp < (SAVED ? 6 : 2)) {                                                                                      \
    const int tile = (u) % tiles;                                                                                    \
    const unsigned char* const from = smem + AT_LEFT + ((((u)&1) * 5 + warp % 5) * 8 + of_tile) * LINE + 16 * piece; \
    if (warp < 5 || (u) < (T - 1) * tiles)                                                                           \
      _Pragma("unroll") for (int i = 0; i < 8; i += 4)                                                               \
        if (tile * 8 + of_tile + i < rows) *(uint4*)(moved + i * H) = *(const uint4*)(from + i * LINE);              \
    moved += H * (tile + 1 < tiles ? 8 : N - 8 * (tiles - 1));                                                       \
  }
  int given = CHOOSES ? GIVEN(0) : 0;
  READ_NOISE(1)
  cluster_sync();

#pragma unroll 1
  for (int u = 0; u < states * tiles; u++) {
    const int t = u / tiles, n = u % tiles, now = t & 1;
    const u32 state = (n * 2 + now) * TILE, next_state = (n * 2 + (now ^ 1)) * TILE;
    const u32 bar = AT_BARS + 16 * n + 8 * now, next_bar = AT_BARS + 16 * n + 8 * (now ^ 1);
    const int vw = warp % VW, vk = warp / VW;
    const bool reads_out = samples && t && vk < VK;
    float logits[VM / VW][4];
    if (reads_out) FIRST_LOGITS(logits, u & 1)
    if (t) {
      bar_wait(s_h + bar, ((t - now) >> 1 & 1) ^ (now ? 0 : 1));
      if (THREAD == 0 && t + 1 < states) bar_expect(s_h + next_bar, TILE);
    }
    if (reads_out) ADD_LOGITS(logits, s_h + state)
    if (samples && !ONE_CHOOSES) SYNC(); // the parts of the logits are there
    if (samples && ONE_CHOOSES && t && warp != CHOOSER) arrive_at<THREADS>(1);

    int token = given;  // of row `lane / 4`
    float x[3][2];      // W x + b of the thread's rows
    float sums[3][4] = {};
#pragma unroll
    for (int k = 0; k < KT; k += 2) {
      if (k == KT / 4 * 2) { // amid the product
        if (moves_amid && u > 1 && u <= T * tiles + 1) WRITE(u - 2)
        if (samples && t && CHOOSES) {
          if (ONE_CHOOSES) sync_at<THREADS>(1); // the parts of the logits are there
          const int sample = choose(scores, lane);
          if (given < 0) token = sample;
          if (rank == n % GROUP && warp == (ONE_CHOOSES ? CHOOSER : 0) && q == 0 && n * 8 + g < rows)
            arrays.samples[(size_t)(t - 1) * SAMPLING + row0 - READING + n * 8 + g] = sample;
        }
        if (ONE_CHOOSES && samples && warp == CHOOSER && q == 0) CHOSEN(u)[g] = token;
        if (CHOOSES) given = GIVEN(u + 1);
        if (!TABLE_SHARED && (!samples || t < T))
#pragma unroll
          for (int j = 0; j < 2; j++) {
            const float* const p = arrays.table + (size_t)from_lane(token, 8 * q + 4 * j) * 3 * H + column;
#pragma unroll
            for (int gate = 0; gate < 3; gate++) x[gate][j] = p[gate * H];
          }
        if (!ONE_CHOOSES) READ_NOISE(u + 2)
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
    if (samples) copies_wait<ONE_CHOOSES ? 0 : 1>(); // of those of the next unit's noise
    SYNC(); // the parts of the sums are there, and the noise; all have read the state
    if (kg < 2 && (!samples || t < T)) {
      const float2 before_ = OWN_CARRY(n);
      const float c = bias[local];
      float h[2] = {before_.x, before_.y}, sum[3][2], pre[2], r[2], z[2], v[2];
      ADD_PARTS(sum, sums, parts)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        if (TABLE_SHARED) {
          const int own = ONE_CHOOSES && samples ? CHOSEN(u)[2 * q + j] : (int)from_lane(token, 8 * q + 4 * j);
          const float* const p = (const float*)(smem + AT_TABLE) + own * ENTRY + local;
#pragma unroll
          for (int gate = 0; gate < 3; gate++) x[gate][j] = p[gate * HC];
        }
        r[j] = sigmoid(x[0][j] + of_product * sum[0][j]);
        z[j] = sigmoid(x[1][j] + of_product * sum[1][j]);
        v[j] = of_product * sum[2][j] + c;
        pre[j] = x[2][j] + r[j] * v[j];
        // In this form an update gate of one keeps the state to the last bit.
        h[j] = (1.f - z[j]) * tanh_(pre[j]) + z[j] * h[j];
      }
      const u32 sent = pack_operand(of_state * h[0], of_state * h[1]);
      if (t + 1 < states)
#pragma unroll
        for (int p = 0; p < GROUP; p++)
          send(map_anew(s_h + next_state + column * 16 + 4 * q, p), sent, map_anew(s_h + next_bar, p));
      OWN_CARRY(n) = pair_of(h[0], h[1]);
      const u32 lines = s_left + (u & 1) * 5 * 8 * LINE;
      stsm1t(lines, F16 ? pack_f16(clip(h[0]), clip(h[1])) : sent);
      const u32 left = pack_f16(clip(pre[0]), clip(pre[1]));
      if (SAVED)
        stsm4t(lines + (1 + (lane >> 3)) * 8 * LINE, left, pack_f16(r[0], r[1]), pack_f16(z[0], z[1]),
               pack_f16(clip(v[0]), clip(v[1])));
      else
        stsm1t(lines + 8 * LINE, left);
    }
    if (ONE_CHOOSES) READ_NOISE(u + 2) // now that all have read that of this unit
    if (!moves_amid && u && u <= T * tiles) WRITE(u - 1)
  }
  if (!samples) {
    if (moves_amid) WRITE(T * tiles - 2)
    SYNC(); // the lines of the last unit are there
    WRITE(T * tiles - 1)
  }
  if (kg < 2)
    for (int n = 0; n < tiles; n++) {
      const float2 h = OWN_CARRY(n);
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int row = n * 8 + 2 * q + j;
        if (row < rows) arrays.last[(size_t)(row0 + row) * H + column] = j ? h.y : h.x;
      }
    }
  cluster_sync(); // no block leaves before what it has sent has arrived
}
