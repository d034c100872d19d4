// rollout.cu for devices without clusters, and for more units than a cluster's registers hold weights of.
//
// units.cuh has what a unit of work is. Of rows that sample there is more in it: before the product the logits of the
// block's own classes, whose highest the block shares with the others; and amid it the choice among all blocks' highest,
// and the reading of the chosen token's row of the table. The highest scores of step t are written anew when all have
// ended that step, and so have read them.
//
// Constants: see rollout.cuh, and GROUP: the number of blocks of a group.
#include "primitives.cuh"

#include "lanes.cuh"
#define ROLLOUT_KERNEL GRID_KERNEL
// zeros: the same memory as counters, of which the 17th of a tile's counts choices. highest: [groups, NT, 8, VM, 2], a
// score in the order of integers and its class. A kernel leaves the last three.
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
#define AT_MEETING (AT_LEAVE + 6 * 8)
#define AT_BIAS (AT_MEETING + 4 * 8)
#define AT_READOUT (AT_BIAS + HC * 4)
#define SHARED_BYTES (AT_READOUT + (SAMPLING ? OWN_CLASSES * H * 2 : 0))
#include "rollout.cuh"
#include "units.cuh"
static_assert(WARPS == 8 && WARPS * 12 * 32 >= WARPS * 8 * SCORES, "the parts of the logits fit where those of the sums do");

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

// Writes what step t has left in shared memory, at `at`, of 8 rows; the last kind is h' again, as what the next step starts
// from.
DEV void write_lines(unsigned char* smem, int at, int t, int row0, int rows, u32 rank) {
#pragma unroll 1
  for (int i = thread_here(); i < (SAVED ? 6 : 2) * 8 * PIECES; i += THREADS) {
    const int piece = i % PIECES, row = i / PIECES % 8, kind = i / PIECES / 8;
    if (row >= rows || (kind == 5 && t + 1 == T)) continue;
    u16* const to = ((u16* const*)(smem + AT_LEAVE))[kind] + ((size_t)(kind < 5 ? t : t + 1) * N + row0 + row) * H + rank * HC;
    const unsigned char* const from = smem + at + (kind % 5 * 8 + row) * LINE;
    *(uint4*)(to + piece * 8) = *(const uint4*)(from + piece * 16);
  }
}

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
    u16** const meeting = (u16**)(smem + AT_MEETING);
    meeting[0] = arrays.states + (size_t)(BLOCK / GROUP) * NT * 2 * H * 8;
    meeting[1] = (u16*)(arrays.counters + (size_t)(BLOCK / GROUP) * NT * 32);
    meeting[2] = (u16*)(arrays.highest + (size_t)(BLOCK / GROUP) * NT * 8 * VM * 2);
  }
  if (samples) // the readout's kernel of the own classes in the order in which threads multiply by it
    for (int i = THREAD; i < OWN_CLASSES * H / 2; i += THREADS) {
      const int part = i & 3, l = i >> 2 & 31, k = (i >> 7) % (H / 16), m = rank + (i >> 7) / (H / 16) * GROUP;
      const int class_ = m * 16 + (l >> 2) + 8 * (part & 1), term = k * 16 + 2 * (l & 3) + 8 * (part >> 1);
      if (m < VM) ((u32*)(smem + AT_READOUT))[i] = ((const u32*)arrays.readout)[((size_t)class_ * H + term) / 2];
    }
  for (int i = THREAD; i < HC; i += THREADS) ((float*)(smem + AT_BIAS))[i] = arrays.bias[rank * HC + i];
  SYNC();
#define HIGHEST(n) (((u32* const*)(smem + AT_MEETING))[2] + (n)*8 * VM * 2)
  SHARE_FIRST_STATES

  // Copies of a unit of work into buffer `b`, of two: the noise of the step before, behind which it chooses,
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

#define AMID                                                                                                \
  if (samples && t && THREAD == 0) wait_for(COUNTER(n) + 16, CHOOSERS * t);                                 \
  const bool copies = tiles > 1 && next_t < states;                                                         \
  if (copies && THREAD == 32) wait_for(COUNTER(next_n), GROUP * (next_t + 1));                              \
  if (samples || tiles > 1) SYNC(); /* and for those threads */                                             \
  if (samples) {                                                                                            \
    if (THREAD < 8) {                                                                                       \
      int token = given;                                                                                    \
      if (t) {                                                                                              \
        const int sample = choose(HIGHEST(n) + THREAD * VM * 2), row = n * 8 + THREAD;                      \
        if (given < 0) token = sample;                                                                      \
        if (rank == 0 && row < rows) arrays.samples[(size_t)(t - 1) * SAMPLING + first + row] = sample;     \
      }                                                                                                     \
      tokens[THREAD] = token;                                                                               \
    }                                                                                                       \
    SYNC(); /* the tokens are there */                                                                      \
    COPY_ENTRIES(tokens[row], now)                                                                          \
    copies_commit();                                                                                        \
  }                                                                                                         \
  if (copies) COPY_STATE(next_t, next_n, next)                                                              \
  if (next_t < states) COPY_NOISE(next_t, next_n, next)                                                     \
  if (!samples && next_t < states) COPY_ENTRIES(GIVEN(next_t, next_n, row), next)                           \
  copies_commit();
#define INPUT(gate, j) ((const float*)(smem + AT_ENTRIES))[(now * 8 + 2 * q + j) * ENTRY + gate * HC + local]
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

      UNIT_PRODUCT
      if (t == T) continue; // that was to sample alone
      PLACE
      LEAVE_SUMS
      if (samples) copies_wait<1>();
      SYNC(); // the parts of the sums are there, and the table's rows
      UNIT_GATES(t, n, t + 1 < states)
      SYNC(); // the lines are there and the state is shared; the parts of the sums may be written anew
      if (t + 1 < states && THREAD == 0) arrive(COUNTER(n));
      write_lines(smem, AT_LEFT, t, row0 + n * 8, rows - n * 8, rank);
    }
  WRITE_LAST_STATES
}
