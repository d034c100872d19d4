// rollout_l2.cu for groups of three tiles and more, where all blocks have shared memory for the whole readout.
//
// As in rollout.cu every block computes the logits of all classes and chooses by itself, so blocks meet once a unit. A
// unit of work, see units.cuh, begins with the logits of its rows; amid the product each thread reads from the table what
// its gates need. States are copied two units ahead.
//
// Constants: see rollout.cuh, and GROUP: the number of blocks of a group.
#include "primitives.cuh"

#include "lanes.cuh"
#define ROLLOUT_KERNEL GRID_KERNEL
// zeros: the same memory as counters. A kernel leaves the last two.
#define EXCHANGE_FIELDS u16* states; u32 *counters;
#define EXCHANGE_READS const u32*,
#define EXCHANGE_MAKES , u16 *states, u32 *counters
#define EXCHANGE_VALUES , states, counters

// Shared memory, in bytes: states of two units, parts of sums, and what a unit leaves; the scores of one, what is added to
// those of two, and the readout's kernel
#define AT_PARTS (2 * TILE)
#define AT_LEFT (AT_PARTS + WARPS * 12 * 32 * 4)
#define AT_SCORES (AT_LEFT + 5 * 8 * LINE)
#define AT_NOISE (AT_SCORES + VK * 8 * SCORES * 4)
#define AT_READOUT (AT_NOISE + 2 * 8 * SCORES * 4)
#define AT_HELD (AT_READOUT + VM * 16 * H * 2)
#define AT_BIAS (AT_HELD + NT * 8 * HC * 4)
#define AT_MEETING (AT_BIAS + HC * 4)
#define SHARED_BYTES (AT_MEETING + 2 * 8)
#define AMID_AT (KT / 8 * 2) // early, for what is read then
#include "rollout.cuh"
#include "readout.cuh"
#include "units.cuh"
static_assert(WARPS == 8, "a block has eight warps");
static_assert(TILES_READING > 2 && TILES_SAMPLING > 2, "what is copied two units ahead, a unit between has shared");

// The rows of a group over time.
template <int tiles, bool samples> DEV void run(const Arrays& arrays, unsigned char* smem, int row0, int rows) {
  PLACE
  const u32 rank = OWN_BLOCK % GROUP;
  const u32 s_h = smem_of(smem);
  const int states = samples ? T + 1 : T; // that are exchanged
#if F16
  const float of_state = arrays.factors[0], of_product = arrays.factors[1];
#else
  const float of_state = 1.f, of_product = 1.f;
#endif

  HOLD_WEIGHTS(a)
  if (THREAD == 0) {
    ((u16**)(smem + AT_MEETING))[0] = arrays.states + (size_t)(BLOCK / GROUP) * NT * 2 * H * 8;
    ((u32**)(smem + AT_MEETING))[1] = arrays.counters + (size_t)(BLOCK / GROUP) * NT * 32;
  }
  if (samples) HOLD_READOUT(arrays.readout)
  for (int i = THREAD; i < HC; i += THREADS) ((float*)(smem + AT_BIAS))[i] = arrays.bias[rank * HC + i];
  SYNC();
  SHARE_FIRST_STATES

// What row `lane / 4` of tile n is to read at step t, -1 for its sample.
#define GIVEN(t, n) ((t) < T && (n)*8 + g < rows ? arrays.tokens[(size_t)(t)*N + row0 + (n)*8 + g] : 0)
// What is added to the logits of a unit, those of the step before: 8 rows of scores.
#define READ_NOISE(t, n)                                                                                               \
  if (samples && (t) && (t) < states)                                                                                  \
    for (int i = thread_here(); i < 8 * CLASSES; i += THREADS)                                                         \
      if ((n)*8 + i / CLASSES < rows)                                                                                  \
        copy4(s_h + AT_NOISE + ((now * 8 + i / CLASSES) * SCORES + i % CLASSES) * 4,                                   \
              arrays.noise + ((size_t)((t)-1) * SAMPLING + row0 - READING + (n)*8) * CLASSES + i);
  // What a warp moves from shared memory to an array over time: a kind of what units leave, the last again h', as what the
  // next step starts from. A lane has a piece of 16 bytes of a row.
  u16* moved = warp == 0 ? arrays.hidden : warp == 1 ? arrays.a : warp == 2 ? arrays.r : warp == 3 ? arrays.z : warp == 4 ? arrays.v : arrays.before;
  moved += ((size_t)(warp == 5 ? N : 0) + row0 + lane / PIECES) * H + rank * HC + 8 * (lane % PIECES);
// What step t of tile n has left.
#define WRITE(t, n)                                                                                                     \
  if (warp < (SAVED ? 6 : 2)) {                                                                                         \
    if ((warp < 5 || (t) + 1 < T) && (n)*8 + lane / PIECES < rows)                                                      \
      *(uint4*)moved = *(const uint4*)(smem + AT_LEFT + (warp % 5 * 8 + lane / PIECES) * LINE + 16 * (lane % PIECES));  \
    moved += H * ((n) + 1 < tiles ? 8 : N - 8 * (tiles - 1));                                                           \
  }
#define AMID                                                                                                  \
  if (samples && t) {                                                                                         \
    const int sample = choose((const float*)(smem + AT_SCORES), lane);                                        \
    if (given < 0) token = sample;                                                                            \
    if (rank == n % GROUP && warp == 0 && q == 0 && n * 8 + g < rows)                                         \
      arrays.samples[(size_t)(t - 1) * SAMPLING + row0 - READING + n * 8 + g] = sample;                       \
  }                                                                                                           \
  given = n + 1 < tiles ? GIVEN(t, n + 1) : GIVEN(t + 1, 0);                                                  \
  if (kg < 2 && (!samples || t < T))                                                                          \
    _Pragma("unroll") for (int j = 0; j < 2; j++) {                                                           \
      const float* const p = arrays.table + (size_t)from_lane(token, 8 * q + 4 * j) * 3 * H + column;         \
      _Pragma("unroll") for (int gate = 0; gate < 3; gate++) x[gate][j] = p[gate * H];                        \
    }                                                                                                         \
  if (thread_here() == MEETS) seen = peek(COUNTER(far_n));
#define INPUT(gate, j) x[gate][j]
  int now = 0; // the unit's buffer
  if (THREAD < 2) wait_for(COUNTER(THREAD), GROUP);
  SYNC(); // also for those threads
#pragma unroll 1
  for (int n = 0; n < 2; n++, now ^= 1) {
    COPY_STATE(0, n, now)
    copies_commit();
  }
  int given = GIVEN(0, 0);
#pragma unroll 1
  for (int t = 0; t < states; t++)
#pragma unroll 1
    for (int n = 0; n < tiles; n++, now ^= 1) {
      const int far_n = n + 2 < tiles ? n + 2 : n + 2 - tiles, far_t = n + 2 < tiles ? t : t + 1; // the next unit but one
      copies_wait<1>();
      SYNC(); // the state is there, and the noise
      const int vw = warp % VW, vk = warp / VW;
      if (samples && t && vk < VK) {
        float logits[VM / VW][4];
        FIRST_LOGITS(logits, now)
        ADD_LOGITS(logits, s_h + now * TILE)
      }
      if (samples) SYNC(); // the parts of the logits are there
      u32 seen = 0;      // arrivals for the far unit
      int token = given; // of row `lane / 4`
      float x[3][2];     // W x + b of the thread's rows
      UNIT_PRODUCT
      PLACE
      LEAVE_SUMS
      SYNC(); // the parts of the sums are there; all have read the state
      if (!samples || t < T) UNIT_GATES(t, n, t + 1 < states)
      MEET(n ? t + 1 < states : t > 0, n ? n - 1 : tiles - 1, far_t < states ? GROUP * (far_t + 1) : 0, far_n, seen)
      SYNC(); // the lines are there and the state is shared; others' states are there
      if (!samples || t < T) WRITE(t, n) // first: the next fence waits for it
      if (far_t < states) COPY_STATE(far_t, far_n, now)
      READ_NOISE(far_t, far_n)
      copies_commit();
    }
  WRITE_LAST_STATES
}
