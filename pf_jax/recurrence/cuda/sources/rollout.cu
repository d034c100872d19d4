// A rollout of one layer of GRUs in one launch: rows that read given tokens at every step and, behind them, rows that
// read given tokens or their own last samples.
//
// As in forward.cu a cluster owns a few rows for good, and a block some columns, whose weights stay in registers. All
// rows of a cluster are of one kind. Every block has the whole state of its cluster's rows, so it computes the logits
// of all classes by itself and tokens need no exchange: all blocks add in the same order, and choose the same.
//
// A step of rows that sample: the readout's product; then the recurrent one, behind which hide the choice of the
// token, the reading of its row of the table and the writing of the step before; then the gates.
//
// Constants: see rollout.cuh; TABLE_SHARED: whether a block has its columns of the table in shared memory.
#include "primitives.cuh"

#include "lanes.cuh"
#define ROLLOUT_KERNEL KERNEL
#define EXCHANGE_FIELDS
#define EXCHANGE_READS
#define EXCHANGE_MAKES
#define EXCHANGE_VALUES
#define PART (MG * 2 * (KG - 1) * 3 * 256)     // bytes of partial sums of 8 rows
#define VW (VM < WARPS ? VM : WARPS == 6 ? 4 : WARPS) // warps along the classes of the readout
#define VK (WARPS / VW)                        // warps along its terms
#define VT (H / 16 / VK)                       // tiles of 16 terms of a warp
#define SCORES (16 * VM + 4)                   // numbers of a row of scores in shared memory
#define ENTRY (3 * HC + 8)                     // numbers of a token's row of the table in shared memory

// Shared memory, in bytes
#define AT_PARTS (2 * NT * TILE)
#define AT_LEFT (AT_PARTS + NT * PART)
#define AT_SCORES (AT_LEFT + LINES(5))
#define AT_NOISE (AT_SCORES + TILES_SAMPLING * VK * 8 * SCORES * 4)
#define AT_READOUT (AT_NOISE + 2 * TILES_SAMPLING * 8 * SCORES * 4)
#define AT_TABLE (AT_READOUT + VM * 16 * H * 2)
#define AT_BIAS (AT_TABLE + (TABLE_SHARED ? (TOKENS + 1) * ENTRY * 4 : 0))
#define AT_LEAVE (AT_BIAS + HC * 4)
#define AT_BARS (AT_LEAVE + 6 * 8)
#define SHARED_BYTES (AT_BARS + 16)
#include "rollout.cuh"
static_assert(VT % 2 == 0 && VM % VW == 0 && H / 16 % VK == 0, "all warps of a readout have as much to do");

// The class of the highest score of row `lane / 4` of a tile: of a fourth of the classes, then of all.
DEV int choose(const float* scores, int lane) {
  const int q = lane & 3;
  int best = 0, chosen = 0;
#pragma unroll
  for (int m = 0; m < VM; m++) {
    const float4* const p = (const float4*)(scores + (lane >> 2) * SCORES + m * 16 + 4 * q);
    float4 s = p[0];
#pragma unroll
    for (int k = 1; k < VK; k++) {
      const float4 more = p[k * 8 * SCORES / 4];
      s.x += more.x;
      s.y += more.y;
      s.z += more.z;
      s.w += more.w;
    }
    const int keys[4] = {ordered(s.x), ordered(s.y), ordered(s.z), ordered(s.w)};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int index = m * 16 + 4 * q + i;
      if (m == 0 && i == 0) {
        best = 4 * q < CLASSES ? keys[0] : (int)0x80000000;
        chosen = index;
      } else if (keys[i] > best && (m * 16 + 16 <= CLASSES || index < CLASSES)) {
        best = keys[i];
        chosen = index;
      }
    }
  }
  HIGHEST_OF_FOUR(best, chosen)
  return chosen < CLASSES ? chosen : CLASSES - 1;
}

// The rows of a cluster over time.
template <int tiles, bool samples> DEV void run(const Arrays& arrays, unsigned char* smem, int row0, int rows) {
  const int lane = THREAD & 31, warp = THREAD >> 5, mg = warp % MG, kg = warp / MG;
  const int g = lane >> 2, q = lane & 3;
  const u32 rank = cluster_rank();
  // A thread finishes one column of two rows of each tile, in the warps of kg 0 and 1.
  const int half = kg & 1, local = mg * 16 + 8 * half + g, column = rank * HC + local;
  const u32 s_h = smem_of(smem), s_bar = s_h + AT_BARS;
  // Where a thread's part of the lines is; in stores of four kinds at once lanes have the addresses of different ones.
  const u32 s_left = s_h + AT_LEFT + (lane & 7) * LINE + (mg * 16 + 8 * half) * 2;
  float* const bias = (float*)(smem + AT_BIAS);
  float* const scores = (float*)(smem + AT_SCORES);
  const int states = samples ? T + 1 : T; // that are exchanged
#if F16
  const float of_state = arrays.factors[0], of_product = arrays.factors[1];
#else
  const float of_state = 1.f, of_product = 1.f;
#endif

  HOLD_WEIGHTS(a)
  if (THREAD == 0) {
    for (int i = 0; i < 2; i++) bar_init(s_bar + 8 * i, 1);
    bar_expect(s_bar + 8, tiles * TILE); // of step 1
    bar_init_fence();
    u16** const p = (u16**)(smem + AT_LEAVE);
    p[0] = arrays.hidden;
    p[1] = arrays.a;
    p[2] = arrays.r;
    p[3] = arrays.z;
    p[4] = arrays.v;
    p[5] = arrays.before;
  }
  for (int i = THREAD; i < tiles * 8 * H; i += THREADS) { // the state of step 0
    const int k = i % H, row = i / H;
    const float h = row < rows ? of_state * arrays.carry[(size_t)(row0 + row) * H + k] : 0.f;
    ((u16*)smem)[row / 8 * (TILE / 2) + k * 8 + row % 8] = (u16)pack_operand(h, 0.f);
  }
  if (samples) // the readout's kernel in the order in which threads multiply by it
    for (int i = THREAD; i < VM * 16 * H / 2; i += THREADS) {
      const int part = i & 3, l = i >> 2 & 31, k = (i >> 7) % (H / 16), m = (i >> 7) / (H / 16);
      const int class_ = m * 16 + (l >> 2) + 8 * (part & 1), term = k * 16 + 2 * (l & 3) + 8 * (part >> 1);
      ((u32*)(smem + AT_READOUT))[i] = ((const u32*)arrays.readout)[((size_t)class_ * H + term) / 2];
    }
  if (TABLE_SHARED)
    for (int i = THREAD; i < (TOKENS + 1) * 3 * HC; i += THREADS) {
      const int c = i % HC, gate = i / HC % 3, token = i / HC / 3;
      ((float*)(smem + AT_TABLE))[token * ENTRY + gate * HC + c] = arrays.table[(size_t)(token * 3 + gate) * H + rank * HC + c];
    }
  for (int i = THREAD; i < HC; i += THREADS) bias[i] = arrays.bias[rank * HC + i];
  float h[tiles][2];
#pragma unroll
  for (int n = 0; n < tiles; n++) {
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int row = n * 8 + 2 * q + j;
      h[n][j] = row < rows ? arrays.carry[(size_t)(row0 + row) * H + column] : 0.f;
    }
    if (kg < 2) stsm1t(s_left + n * 8 * LINE, F16 ? pack_f16(clip(h[n][0]), clip(h[n][1])) : pack_bf16(h[n][0], h[n][1]));
  }
  int given[tiles]; // what row `lane / 4` is to read, -1 for its sample
#define READ_TOKENS(t) \
  _Pragma("unroll") for (int n = 0; n < tiles; n++) given[n] = n * 8 + g < rows ? arrays.tokens[(size_t)(t) * N + row0 + n * 8 + g] : 0;
  READ_TOKENS(0)
  // What is added to the logits after step t: [2][tiles][8] rows of scores.
  const int first = row0 - READING;
#define READ_NOISE(t)                                                                                            \
  {                                                                                                              \
    if (samples && (t) < T)                                                                                      \
      _Pragma("unroll 1") for (int i = thread_here(); i < tiles * 8 * 16 * VM; i += THREADS) {                                            \
        const int class_ = i % (16 * VM), row = i / (16 * VM);                                                   \
        if (class_ < CLASSES && row < rows)                                                                      \
          copy4(s_h + AT_NOISE + (((t) & 1) * tiles * 8 + row) * SCORES * 4 + class_ * 4,                        \
                arrays.noise + ((size_t)(t) * SAMPLING + first + row) * CLASSES + class_);                       \
      }                                                                                                          \
    if (samples) copies_commit();                                                                                \
  }
  READ_NOISE(0)
  cluster_sync();

#pragma unroll 1
  for (int t = 0; samples || t < T; t++) {
    const int now = t & 1, next = now ^ 1;
    const int vw = warp % VW, vk = warp / VW;
    const bool reads_out = samples && t && vk < VK;
    float logits[tiles][VM / VW][4];
    if (reads_out)
#pragma unroll
      for (int n = 0; n < tiles; n++)
#pragma unroll
        for (int m = 0; m < VM / VW; m++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const float* const noise = (const float*)(smem + AT_NOISE) + ((next * tiles + n) * 8 + 2 * q + (i & 1)) * SCORES;
            logits[n][m][i] = vk ? 0.f : noise[(vw + m * VW) * 16 + g + 8 * (i >> 1)];
          }
    if (t) {
      bar_wait(s_bar + 8 * now, ((t - now) >> 1 & 1) ^ (now ? 0 : 1));
      if (THREAD == 0 && t + 1 < states) bar_expect(s_bar + 8 * next, tiles * TILE);
    }
    if (reads_out)
#pragma unroll
      for (int n = 0; n < tiles; n++)
#pragma unroll
        for (int m = 0; m < VM / VW; m++) {
          const uint4* const kernel = (const uint4*)(smem + AT_READOUT) + ((vw + m * VW) * (H / 16) + vk * VT) * 32 + lane;
          float more[4] = {}; // every other term: two shorter chains
#pragma unroll
          for (int k = 0; k < VT; k += 2) {
            u32 b0, b1, b2, b3;
            ldsm4t(s_h + (now * tiles + n) * TILE + ((vk * VT + k) * 16 + lane) * 16, b0, b1, b2, b3);
            const uint4 x = kernel[k * 32], y = kernel[(k + 1) * 32];
            const u32 even[4] = {x.x, x.y, x.z, x.w}, odd[4] = {y.x, y.y, y.z, y.w};
            mma(logits[n][m], even, b0, b1);
            mma(more, odd, b2, b3);
          }
#pragma unroll
          for (int i = 0; i < 4; i++)
            scores[((n * VK + vk) * 8 + 2 * q + (i & 1)) * SCORES + (vw + m * VW) * 16 + g + 8 * (i >> 1)] = logits[n][m][i] + more[i];
        }
    SYNC(); // the parts of the logits are there, and the lines of the last step

    int token[tiles];      // of row `lane / 4`
    float x[tiles][3][2];  // W x + b of the thread's rows
    float u[tiles][3][2];  // U h of the thread's rows
#pragma unroll
    for (int n = 0; n < tiles; n++) {
      float sums[3][4] = {};
#pragma unroll
      for (int k = 0; k < KT; k += 2) {
        if (n == 0 && k == KT / 4 * 2) { // amid the product
#pragma unroll
          for (int i = 0; i < tiles; i++) {
            token[i] = given[i];
            if (!samples || !t) continue;
            const int sample = choose(scores + i * VK * 8 * SCORES, lane);
            if (given[i] < 0) token[i] = sample;
            if (rank == i && warp == 0 && q == 0 && i * 8 + g < rows) arrays.samples[(size_t)(t - 1) * SAMPLING + first + i * 8 + g] = sample;
          }
          if (samples && t == T) goto done;
          if (t + 1 < T) READ_TOKENS(t + 1)
          if (!TABLE_SHARED)
#pragma unroll
            for (int i = 0; i < tiles; i++)
#pragma unroll
              for (int j = 0; j < 2; j++) {
                const float* const p = arrays.table + (size_t)from_lane(token[i], 8 * q + 4 * j) * 3 * H + column;
#pragma unroll
                for (int gate = 0; gate < 3; gate++) x[i][gate][j] = p[gate * H];
              }
          READ_NOISE(t + 1)
          write_lines<tiles>(smem, t, row0, rows, rank);
        }
        u32 b0, b1, b2, b3;
        ldsm4t(s_h + (now * tiles + n) * TILE + ((kg * KT + k) * 16 + lane) * 16, b0, b1, b2, b3);
#pragma unroll
        for (int gate = 0; gate < 3; gate++) mma(sums[gate], a[gate][k], b0, b1);
#pragma unroll
        for (int gate = 0; gate < 3; gate++) mma(sums[gate], a[gate][k + 1], b2, b3);
      }
      // To the warp that finishes them; its own stay where they are.
      float2* const parts = (float2*)(smem + AT_PARTS + n * PART + mg * 2 * (KG - 1) * 3 * 256) + lane;
#pragma unroll
      for (int to = 0; to < 2; to++)
        if (kg != to)
#pragma unroll
          for (int gate = 0; gate < 3; gate++) {
            float2 both;
            both.x = sums[gate][2 * to];
            both.y = sums[gate][2 * to + 1];
            parts[((to * (KG - 1) + (kg < to ? kg : kg - 1)) * 3 + gate) * 32] = both;
          }
#pragma unroll
      for (int gate = 0; gate < 3; gate++)
#pragma unroll
        for (int j = 0; j < 2; j++) u[n][gate][j] = half ? sums[gate][2 + j] : sums[gate][j];
    }
    if (samples) copies_wait<1>(); // all but the last
    SYNC();                        // the parts of the sums are there, and the noise; all have read the state
    if (kg < 2)
#pragma unroll
      for (int n = 0; n < tiles; n++) {
        const float2* const parts = (const float2*)(smem + AT_PARTS + n * PART + mg * 2 * (KG - 1) * 3 * 256) + lane;
#pragma unroll
        for (int i = 0; i < KG - 1; i++)
#pragma unroll
          for (int gate = 0; gate < 3; gate++) {
            const float2 both = parts[((half * (KG - 1) + i) * 3 + gate) * 32];
            u[n][gate][0] += both.x;
            u[n][gate][1] += both.y;
          }
        const float c = bias[local];
        float pre[2], r[2], z[2], v[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
          if (TABLE_SHARED) {
            const float* const p = (const float*)(smem + AT_TABLE) + (int)from_lane(token[n], 8 * q + 4 * j) * ENTRY + local;
#pragma unroll
            for (int gate = 0; gate < 3; gate++) x[n][gate][j] = p[gate * HC];
          }
          r[j] = sigmoid(x[n][0][j] + of_product * u[n][0][j]);
          z[j] = sigmoid(x[n][1][j] + of_product * u[n][1][j]);
          v[j] = of_product * u[n][2][j] + c;
          pre[j] = x[n][2][j] + r[j] * v[j];
          // In this form an update gate of one keeps the state to the last bit.
          h[n][j] = (1.f - z[j]) * tanh_(pre[j]) + z[j] * h[n][j];
        }
        const u32 sent = pack_operand(of_state * h[n][0], of_state * h[n][1]);
        if (t + 1 < states)
#pragma unroll
          for (int p = 0; p < 8; p++)
            send(map_anew(s_h + (next * tiles + n) * TILE + column * 16 + 4 * q, p), sent, map_anew(s_bar + 8 * next, p));
        stsm1t(s_left + n * 8 * LINE, F16 ? pack_f16(clip(h[n][0]), clip(h[n][1])) : sent);
        const u32 left = pack_f16(clip(pre[0]), clip(pre[1]));
        if (SAVED)
          stsm4t(s_left + ((1 + (lane >> 3)) * 8 * tiles + n * 8) * LINE, left, pack_f16(r[0], r[1]), pack_f16(z[0], z[1]),
                 pack_f16(clip(v[0]), clip(v[1])));
        else
          stsm1t(s_left + (8 * tiles + n * 8) * LINE, left);
      }
  }
  SYNC(); // the lines of the last step are there
done:
  write_lines<tiles>(smem, T, row0, rows, rank);
  if (kg < 2)
#pragma unroll
    for (int n = 0; n < tiles; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int row = n * 8 + 2 * q + j;
        if (row < rows) arrays.last[(size_t)(row0 + row) * H + column] = h[n][j];
      }
  cluster_sync(); // no block leaves before what it has sent has arrived
}

