// rollout.cu for devices without clusters, and for more units than a cluster's registers hold weights of.
//
// As in forward_l2.cu the blocks of a group own the same rows and meet in the device's memory. Here they go through a
// group's tiles of 8 rows one after the other, each with a counter of its own: while the states of one tile are on their
// way to the other blocks, the next is multiplied. A unit of work is a step of a tile:
//
//   its state is in shared memory, copied there amid the unit before;
//   of rows that sample: logits of the block's own classes, whose highest the block shares with the others;
//   the recurrent product, and amid it the choice among all blocks' highest, the reading of the chosen token's row of the
//   table, and the copy of the next unit's state;
//   the gates; the new state is shared, and what the step leaves is written.
//
// Why nothing is overwritten too soon: a block begins step t of a tile when all have shared its state, so all have ended
// step t - 1 and read the state of t - 1, whose buffer is that of t + 1, and the highest scores that led to it.
//
// Constants: see rollout.cuh, and GROUP: the number of blocks of a group.
#include "primitives.cuh"

#include "lanes.cuh"
#define ROLLOUT_KERNEL GRID_KERNEL
// zeros: [groups, NT, 32], the same memory as counters: of a tile's 32 the first counts states, the 17th choices.
// states: [groups, NT, 2, H, 8]; highest: [groups, NT, 8, VM, 2], a score in the order of integers and its class. A
// kernel leaves these three.
#define EXCHANGE_FIELDS u16* states; u32 *highest, *counters;
#define EXCHANGE_READS const u32*,
#define EXCHANGE_MAKES , u16 *states, u32 *highest, u32 *counters
#define EXCHANGE_VALUES , states, highest, counters
#define CHOOSERS (VM < GROUP ? VM : GROUP)     // blocks that have classes
#define OWN_CLASSES (16 * ((VM + GROUP - 1) / GROUP)) // the most classes of a block
#define SCORES 20                              // numbers of a row of 16 scores in shared memory
#define NOISES (OWN_CLASSES + 4)               // numbers of a row of noise there
#define ENTRY (3 * HC + 4)                     // numbers of a token's row of the table there

// Shared memory, in bytes
#define AT_PARTS (2 * TILE)                    // of sums; before them of logits
#define AT_LEFT (AT_PARTS + WARPS * 12 * 32 * 4)
#define AT_ENTRIES (AT_LEFT + 5 * 8 * LINE)
#define AT_NOISE (AT_ENTRIES + 2 * 8 * ENTRY * 4)
#define AT_HELD (AT_NOISE + 2 * 8 * NOISES * 4)
#define AT_TOKENS (AT_HELD + NT * 8 * HC * 4)
#define AT_LEAVE (AT_TOKENS + 8 * 4)
#define AT_BIAS (AT_LEAVE + 10 * 8)
#define AT_READOUT (AT_BIAS + HC * 4)
#define SHARED_BYTES (AT_READOUT + (SAMPLING ? OWN_CLASSES * H * 2 : 0))
#include "rollout.cuh"
static_assert(WARPS == 8 && WARPS * 12 * 32 >= WARPS * 8 * SCORES, "the parts of the logits fit where those of the sums do");

DEV float2 pair_of(float x, float y) {
  float2 both;
  both.x = x;
  both.y = y;
  return both;
}

// Shares the highest score of each row of a tile among the block's own classes: of their logits, in parts, and the noise.
DEV void share_highest(const float* scores, const float* noise, int m, u32* highest) {
  const int lane = THREAD & 31, row = lane >> 2, first = 4 * (lane & 3);
  int best = 0, chosen = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    float score = noise[row * NOISES + first + i];
#pragma unroll
    for (int k = 0; k < WARPS; k++) score += scores[(k * 8 + row) * SCORES + first + i];
    const int index = 16 * m + first + i, key = index < CLASSES ? ordered(score) : (int)0x80000000;
    if (i == 0 || key > best) {
      best = key;
      chosen = index;
    }
  }
  HIGHEST_OF_FOUR(best, chosen)
  if (first == 0) {
    share(highest + (row * VM + m) * 2, (u32)best);
    share(highest + (row * VM + m) * 2 + 1, (u32)chosen);
  }
}

// The class of the highest score of a row, the lowest where they are equal.
DEV int choose(const u32* highest) {
  int best = 0, chosen = 0;
#pragma unroll
  for (int m = 0; m < VM; m++) {
    u32 key, index;
    fetch2(highest + 2 * m, key, index);
    if (m == 0 || (int)key > best) {
      best = (int)key;
      chosen = (int)index;
    }
  }
  return chosen < CLASSES ? chosen : CLASSES - 1;
}

// Where a thread works: it finishes one column of two rows of each tile, in the warps of kg 0 and 1. Asked for anew behind
// the product, which leaves no registers for it.
#define PLACE                                                                                               \
  const int thread = thread_here(), lane = thread & 31, warp = thread >> 5, mg = warp % MG, kg = warp / MG; \
  const int g = lane >> 2, q = lane & 3, half = kg & 1, local = mg * 16 + 8 * half + g;                     \
  const int column = OWN_BLOCK % GROUP * HC + local;                                                        \
  float2* const held = (float2*)(smem + AT_HELD) + (mg * 2 + half) * 32 + lane; // its numbers of the carry

// The rows of a group over time.
template <int tiles, bool samples> DEV void run(const Arrays& arrays, unsigned char* smem, int row0, int rows) {
  PLACE
  const u32 rank = OWN_BLOCK % GROUP;
  const u32 s_h = smem_of(smem);
  float* const parts = (float*)(smem + AT_PARTS);
  int* const tokens = (int*)(smem + AT_TOKENS);
  const int states = samples ? T + 1 : T; // that are exchanged
  const int first = row0 - READING;
#if F16
  const float of_state = arrays.factors[0], of_product = arrays.factors[1];
#else
  const float of_state = 1.f, of_product = 1.f;
#endif

  HOLD_WEIGHTS(a)
  if (THREAD == 0) {
    u16** const p = (u16**)(smem + AT_LEAVE);
    p[0] = arrays.hidden;
    p[1] = arrays.a;
    p[2] = arrays.r;
    p[3] = arrays.z;
    p[4] = arrays.v;
    p[5] = arrays.before;
    p[6] = arrays.states + (size_t)(BLOCK / GROUP) * NT * 2 * H * 8;
    p[7] = (u16*)(arrays.highest + (size_t)(BLOCK / GROUP) * NT * 8 * VM * 2);
    p[8] = (u16*)(arrays.counters + (size_t)(BLOCK / GROUP) * NT * 32);
  }
  if (samples) // the readout's kernel of the own classes in the order in which threads multiply by it
    for (int i = THREAD; i < OWN_CLASSES * H / 2; i += THREADS) {
      const int part = i & 3, l = i >> 2 & 31, k = (i >> 7) % (H / 16), m = rank + (i >> 7) / (H / 16) * GROUP;
      const int class_ = m * 16 + (l >> 2) + 8 * (part & 1), term = k * 16 + 2 * (l & 3) + 8 * (part >> 1);
      if (m < VM) ((u32*)(smem + AT_READOUT))[i] = ((const u32*)arrays.readout)[((size_t)class_ * H + term) / 2];
    }
  for (int i = THREAD; i < HC; i += THREADS) ((float*)(smem + AT_BIAS))[i] = arrays.bias[rank * HC + i];
  SYNC();
// Read anew where they are used: in registers there is no place for them.
#define STATES (((u16* const*)(smem + AT_LEAVE))[6])
#define HIGHEST(n) (((u32* const*)(smem + AT_LEAVE))[7] + (n)*8 * VM * 2)
#define COUNTER(n) (((u32* const*)(smem + AT_LEAVE))[8] + (n)*32)
#define SHARE_STATE(n, step, sent) share((u32*)(STATES + (((n)*2 + ((step)&1)) * H + column) * 8 + 2 * q), sent);
  if (kg < 2)
#pragma unroll 1
    for (int n = 0; n < tiles; n++) { // the state of step 0
      float h[2];
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int row = n * 8 + 2 * q + j;
        h[j] = row < rows ? arrays.carry[(size_t)(row0 + row) * H + column] : 0.f;
        if (SAVED && row < rows) arrays.before[(size_t)(row0 + row) * H + column] = (u16)pack_operand(F16 ? clip(h[j]) : h[j], 0.f);
      }
      held[n * 4 * HC] = pair_of(h[0], h[1]);
      SHARE_STATE(n, 0, pack_operand(of_state * h[0], of_state * h[1]))
    }
  SYNC();
  if (THREAD < tiles) arrive(COUNTER(THREAD));

  // Copies of a unit of work into buffer `b`, of two: the state of step t of tile n,
#define COPY_STATE(t, n, b)                                                                                 \
  for (int i = thread_here(); i < H; i += THREADS)                                                          \
    copy16(s_h + (b)*TILE + i * 16, STATES + (((n)*2 + ((t)&1)) * H + i) * 8, true);
  // the noise of the step before, behind which it chooses,
#define COPY_NOISE(t, n, b)                                                                                 \
  if (samples && (t))                                                                                       \
    for (int i = thread_here(); i < 8 * OWN_CLASSES; i += THREADS) {                                        \
      const int own = i % OWN_CLASSES, class_ = (rank + own / 16 * GROUP) * 16 + own % 16, row = i / OWN_CLASSES; \
      if (class_ < CLASSES && (n)*8 + row < rows)                                                           \
        copy4(s_h + AT_NOISE + (((b)*8 + row) * NOISES + own) * 4,                                          \
              arrays.noise + ((size_t)((t)-1) * SAMPLING + first + (n)*8 + row) * CLASSES + class_);        \
    }
  // and the block's columns of the table's rows of these tokens.
#define COPY_ENTRIES(token_of_row, b)                                                                       \
  for (int i = thread_here(); i < 8 * 3 * (HC / 4); i += THREADS) {                                         \
    const int piece = i % (HC / 4), gate = i / (HC / 4) % 3, row = i / (HC / 4) / 3, token = token_of_row;  \
    copy16(s_h + AT_ENTRIES + (((b)*8 + row) * ENTRY + gate * HC + piece * 4) * 4,                          \
           arrays.table + ((size_t)token * 3 + gate) * H + rank * HC + piece * 4, true);                    \
  }
#define GIVEN(t, n, row) ((t) < T && (n)*8 + (row) < rows ? arrays.tokens[(size_t)(t)*N + row0 + (n)*8 + (row)] : 0)
  if (tiles > 1) {
    if (THREAD == 0) wait_for(COUNTER(0), GROUP);
    SYNC();
    COPY_STATE(0, 0, 0)
  }
  if (!samples) COPY_ENTRIES(GIVEN(0, 0, row), 0)
  copies_commit();

  int now = 0; // the unit's buffer
#pragma unroll 1
  for (int t = 0; t < states; t++)
#pragma unroll 1
    for (int n = 0; n < tiles; n++, now ^= 1) {
      const int next = now ^ 1, next_n = n + 1 < tiles ? n + 1 : 0, next_t = next_n ? t : t + 1;
      const int given = samples && THREAD < 8 ? GIVEN(t, n, THREAD) : 0; // of row THREAD; -1 for its sample
      if (tiles == 1) { // no other unit hides the exchange
        if (THREAD == 0) wait_for(COUNTER(n), GROUP * (t + 1));
        SYNC();
        COPY_STATE(t, n, now)
        copies_commit();
      }
      copies_wait<0>();
      SYNC(); // the state is there, the noise or the table's rows

      if (samples && t && rank < CHOOSERS) {
#pragma unroll 1
        for (int m = rank, own = 0; m < VM; m += GROUP, own++) {
          float logits[4] = {};
          const uint4* const kernel = (const uint4*)(smem + AT_READOUT) + own * (H / 16) * 32 + lane;
#pragma unroll 1
          for (int k = warp; k < H / 32; k += WARPS) { // two tiles of 16 terms
            u32 b0, b1, b2, b3;
            ldsm4t(s_h + now * TILE + (k * 32 + lane) * 16, b0, b1, b2, b3);
            const uint4 x = kernel[2 * k * 32], y = kernel[(2 * k + 1) * 32];
            const u32 even[4] = {x.x, x.y, x.z, x.w}, odd[4] = {y.x, y.y, y.z, y.w};
            mma(logits, even, b0, b1);
            mma(logits, odd, b2, b3);
          }
#pragma unroll
          for (int i = 0; i < 4; i++) parts[(warp * 8 + 2 * q + (i & 1)) * SCORES + g + 8 * (i >> 1)] = logits[i];
          SYNC(); // the parts of the logits are there
          if (warp == 0) share_highest(parts, (const float*)(smem + AT_NOISE) + now * 8 * NOISES + own * 16, m, HIGHEST(n));
          SYNC(); // they may be written anew, and the highest is shared
        }
        if (THREAD == 0) arrive(COUNTER(n) + 16);
      }

      float sums[3][4] = {};
#pragma unroll
      for (int k = 0; k < KT; k += 2) {
        if (k == KT / 4 * 2) { // amid the product
          if (samples && t && THREAD == 0) wait_for(COUNTER(n) + 16, CHOOSERS * t);
          const bool copies = tiles > 1 && next_t < states;
          if (copies && THREAD == 32) wait_for(COUNTER(next_n), GROUP * (next_t + 1));
          if (samples || tiles > 1) SYNC(); // and for those threads
          if (samples) {
            if (THREAD < 8) {
              int token = given;
              if (t) {
                const int sample = choose(HIGHEST(n) + THREAD * VM * 2), row = n * 8 + THREAD;
                if (given < 0) token = sample;
                if (rank == 0 && row < rows) arrays.samples[(size_t)(t - 1) * SAMPLING + first + row] = sample;
              }
              tokens[THREAD] = token;
            }
            SYNC(); // the tokens are there
            COPY_ENTRIES(tokens[row], now)
            copies_commit();
          }
          if (copies) COPY_STATE(next_t, next_n, next)
          if (next_t < states) COPY_NOISE(next_t, next_n, next)
          if (!samples && next_t < states) COPY_ENTRIES(GIVEN(next_t, next_n, row), next)
          copies_commit();
        }
        u32 b0, b1, b2, b3;
        ldsm4t(s_h + now * TILE + ((kg * KT + k) * 16 + lane) * 16, b0, b1, b2, b3);
#pragma unroll
        for (int gate = 0; gate < 3; gate++) mma(sums[gate], a[gate][k], b0, b1);
#pragma unroll
        for (int gate = 0; gate < 3; gate++) mma(sums[gate], a[gate][k + 1], b2, b3);
      }
      if (t == T) continue; // that was to sample alone
      PLACE
#pragma unroll
      for (int gate = 0; gate < 3; gate++)
#pragma unroll
        for (int i = 0; i < 4; i++) parts[((mg * KG + kg) * 12 + gate * 4 + i) * 32 + lane] = sums[gate][i];
      if (samples) copies_wait<1>();
      SYNC(); // the parts of the sums are there, and the table's rows
      if (kg < 2) {
        const float* const p = parts + mg * KG * 12 * 32 + lane;
        const float* const entries = (const float*)(smem + AT_ENTRIES) + (now * 8 + 2 * q) * ENTRY + local;
        unsigned char* const left = smem + AT_LEFT + 2 * q * LINE + local * 2;
        const float2 before = held[n * 4 * HC];
        const float c = ((const float*)(smem + AT_BIAS))[local];
        float h[2] = {before.x, before.y}, pre[2], r[2], z[2], v[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
          float u[3];
#pragma unroll
          for (int gate = 0; gate < 3; gate++) {
            u[gate] = 0;
#pragma unroll
            for (int i = 0; i < KG; i++) u[gate] += p[(i * 12 + gate * 4 + 2 * half + j) * 32];
            u[gate] *= of_product;
          }
          r[j] = sigmoid(entries[j * ENTRY] + u[0]);
          z[j] = sigmoid(entries[j * ENTRY + HC] + u[1]);
          v[j] = u[2] + c;
          pre[j] = entries[j * ENTRY + 2 * HC] + r[j] * v[j];
          // In this form an update gate of one keeps the state to the last bit.
          h[j] = (1.f - z[j]) * tanh_(pre[j]) + z[j] * h[j];
        }
        held[n * 4 * HC] = pair_of(h[0], h[1]);
        const u32 sent = pack_operand(of_state * h[0], of_state * h[1]);
        if (t + 1 < states) SHARE_STATE(n, t + 1, sent)
#define LEAVE(kind, both)                               \
  {                                                     \
    const u32 b = both;                                 \
    *(u16*)(left + kind * 8 * LINE) = (u16)b;           \
    *(u16*)(left + (kind * 8 + 1) * LINE) = (u16)(b >> 16); \
  }
        LEAVE(0, F16 ? pack_f16(clip(h[0]), clip(h[1])) : sent)
        LEAVE(1, pack_f16(clip(pre[0]), clip(pre[1])))
        if (SAVED) {
          LEAVE(2, pack_f16(r[0], r[1]))
          LEAVE(3, pack_f16(z[0], z[1]))
          LEAVE(4, pack_f16(clip(v[0]), clip(v[1])))
        }
      }
      SYNC(); // the lines are there and the state is shared; the parts of the sums may be written anew
      if (t + 1 < states && THREAD == 0) arrive(COUNTER(n));
      write_lines<1>(smem, t + 1, row0 + n * 8, rows - n * 8, rank);
    }
#pragma unroll 1
  for (int n = 0; n < tiles; n++) {
    PLACE
    const float2 h = held[n * 4 * HC];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int row = n * 8 + 2 * q + j;
      if (kg < 2 && row < rows) arrays.last[(size_t)(row0 + row) * H + column] = j ? h.y : h.x;
    }
  }
}
