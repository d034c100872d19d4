// forward.cu for devices without clusters, and for more units than a cluster's registers hold weights of.
//
// Constants: as in forward.cu, and GROUP: the number of blocks of a group.
#include "primitives.cuh"

#include "place.cuh"
// zeros: the same memory as counters. A kernel leaves the last two.
#define EXCHANGE_READS const u32*,
#define EXCHANGE_MAKES , u16 *states, u32 *counters

// Shared memory, in bytes: states of two units, parts of sums, projections of two units, and what a unit leaves
#define AT_PARTS (2 * TILE)
#define AT_READ (AT_PARTS + WARPS * 12 * 32 * 4)
#define AT_LEFT (AT_READ + 2 * 3 * 8 * LINE)
#define AT_HELD (AT_LEFT + 5 * 8 * LINE)
#define AT_BIAS (AT_HELD + NT * 8 * HC * 4)
#define AT_MEETING (AT_BIAS + HC * 4)
#define SHARED_BYTES (AT_MEETING + 2 * 8)
#include "forward.cuh"
#include "units.cuh"
static_assert(WARPS == 8, "a block has eight warps");

#define AHEAD (IS_AHEAD && NT > 2 ? 2 : 1) // units of work by which a state is copied ahead

#if AHEAD == 1
// Copies the projections of 8 rows from `row0_` on of step s to three lines a row in shared memory, from a line on.
#define COPY_PROJECTIONS(s, row0_, to, first_line)                                              \
  for (int i = thread_here(); i < 3 * 8 * PIECES; i += THREADS) {                               \
    const int piece = i % PIECES, line = i / PIECES, gate = line / 8, row = line % 8;           \
    const size_t at = ((size_t)IN_TIME(s) * N + row0_ + row) * (S * 3 * H) + direction * 3 * H; \
    const bool is_row = row0_ + row < N;                                                        \
    copy16((to) + ((first_line) + line) * LINE + piece * 16, x + (is_row ? at + gate * H + rank * HC + piece * 8 : 0), is_row); \
  }

// Writes what step s has left of 8 rows from `row0_` on; the last kind is h' again, as what the next step starts from.
#if SAVED
#define KIND_5 else if (kind == 5) to = before + ((size_t)direction * T * N + at) * H;
#define OTHER_GATES to = (kind == 2 ? PICK(1) : kind == 3 ? PICK(2) : PICK(3)) + at * H;
#else
#define KIND_5
#define OTHER_GATES continue;
#endif
#define WRITE_LINES(s, row0_)                                                                             \
  for (int i = thread_here(); i < (KINDS + SAVED) * 8 * PIECES; i += THREADS) {                           \
    const int piece = i % PIECES, line = i / PIECES, kind = line / 8, row = row0_ + line % 8;             \
    const int t = IN_TIME(kind < KINDS ? s : s + 1);                                                      \
    const int from = kind < KINDS ? line : line % 8;                                                      \
    const size_t at = (size_t)t * N + row;                                                                \
    u16* to;                                                                                              \
    if (kind == 0)                                                                                        \
      to = hidden + at * (S * H) + direction * H;                                                         \
    else if (kind == 1)                                                                                   \
      to = PICK(0) + at * H;                                                                              \
    KIND_5 else OTHER_GATES                                                                               \
    if (row < N && (kind < KINDS || s + 1 < T))                                                           \
      *(uint4*)(to + rank * HC + piece * 8) = *(const uint4*)(smem + AT_LEFT + from * LINE + piece * 16); \
  }
#endif

GRID_KERNEL gru_forward(ARRAYS) {
  SHARED
  OF_MODEL_ARRAYS
  PLACE
  const u32 rank = OWN_BLOCK % GROUP;
  const int direction = DIRECTION, row0 = FIRST_ROW;
  const u32 s_h = smem_of(smem);
#if F16
  const float of_state = factors[0], of_product = factors[1];
#else
  const float of_state = 1.f, of_product = 1.f;
#endif

  HOLD_WEIGHTS(a)
  if (THREAD == 0) {
    ((u16**)(smem + AT_MEETING))[0] = states + (size_t)(BLOCK / GROUP) * NT * 2 * H * 8;
    ((u32**)(smem + AT_MEETING))[1] = counters + (size_t)(BLOCK / GROUP) * NT * 32;
  }
  for (int i = THREAD; i < HC; i += THREADS) ((float*)(smem + AT_BIAS))[i] = bias[direction * H + rank * HC + i];
  SYNC();
  if (kg < 2)
#pragma unroll 1
    for (int n = 0; n < NT; n++) { // the state of step 0
      float h[2];
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int row = row0 + n * 8 + 2 * q + j;
        h[j] = row < N ? h0[((size_t)direction * N + row) * H + column] : 0.f;
#if SAVED
        if (row < N)
          before[((size_t)(direction * T + IN_TIME(0)) * N + row) * H + column] = (u16)pack_operand(F16 ? clip(h[j]) : h[j], 0.f);
#endif
      }
      held[n * 4 * HC] = pair_of(h[0], h[1]);
      SHARE_STATE(n, 0, pack_operand(of_state * h[0], of_state * h[1]))
    }
  SYNC();
  if (THREAD < NT) arrive(COUNTER(THREAD));
#define INPUT(gate, j) \
  of_f16(*(const u16*)(smem + AT_READ + ((now * 3 + gate) * 8 + 2 * q + j) * LINE + local * 2))
#if AHEAD == 1
  if (NT > 1) {
    if (THREAD == 0) wait_for(COUNTER(0), GROUP);
    SYNC();
    COPY_STATE(0, 0, 0)
  }
  COPY_PROJECTIONS(0, row0, s_h + AT_READ, 0)
  copies_commit();

#define AMID                                                                           \
  const bool copies = next_s < T;                                                      \
  if (NT > 1) {                                                                        \
    if (copies && THREAD == 0) wait_for(COUNTER(next_n), GROUP * (next_s + 1));        \
    SYNC(); /* and for that thread */                                                  \
    if (copies) COPY_STATE(next_s, next_n, next)                                       \
  }                                                                                    \
  if (copies) COPY_PROJECTIONS(next_s, row0 + next_n * 8, s_h + AT_READ, next * 3 * 8) \
  copies_commit();
  int now = 0; // the unit's buffer
#pragma unroll 1
  for (int s = 0; s < T; s++)
#pragma unroll 1
    for (int n = 0; n < NT; n++, now ^= 1) {
      const int next = now ^ 1, next_n = n + 1 < NT ? n + 1 : 0, next_s = next_n ? s : s + 1;
      if (NT == 1) { // no other unit hides the exchange
        if (THREAD == 0) wait_for(COUNTER(n), GROUP * (s + 1));
        SYNC(); // also for that thread
        COPY_STATE(s, n, now)
        copies_commit();
      }
      copies_wait<0>();
      SYNC(); // the state is there, and the projections
      UNIT_PRODUCT
      PLACE
      LEAVE_SUMS
      SYNC(); // the parts of the sums are there
      UNIT_GATES(s, n, s + 1 < T)
      SYNC(); // the lines are there and the state is shared; the parts of the sums may be written anew
      if (s + 1 < T && THREAD == 0) arrive(COUNTER(n));
      WRITE_LINES(s, row0 + n * 8)
    }
#else
  FIND_MOVED(lane / PIECES, lane % PIECES)
// The projections of step s of tile n.
#define READ(s, n)                                                                                        \
  if (warp == 6 && (s) < T) {                                                                             \
    _Pragma("unroll") for (int gate = 0; gate < 3; gate++)                                                \
      copy16(s_h + AT_READ + ((now * 3 + gate) * 8 + lane / PIECES) * LINE + 16 * (lane % PIECES),        \
             moved + 2 * gate * H, row0 + (n)*8 + lane / PIECES < N);                                     \
    ADVANCE(n)                                                                                            \
  }                                                                                                       \
  copies_commit();
// What step s of tile n has left.
#define WRITE(s, n)                                                                                       \
  if (warp < KINDS + SAVED) {                                                                             \
    if ((warp < 5 || (s) + 1 < T) && row0 + (n)*8 + lane / PIECES < N)                                    \
      *(uint4*)moved = *(const uint4*)(smem + AT_LEFT + (warp % 5 * 8 + lane / PIECES) * LINE + 16 * (lane % PIECES)); \
    ADVANCE(n)                                                                                            \
  }
#define AMID \
  if (thread_here() == MEETS) seen = peek(COUNTER(far_n));
  int now = 0; // the unit's buffer
  if (THREAD < 2) wait_for(COUNTER(THREAD), GROUP);
  SYNC(); // also for those threads
#pragma unroll 1
  for (int n = 0; n < 2; n++, now ^= 1) {
    COPY_STATE(0, n, now)
    READ(0, n)
  }
#pragma unroll 1
  for (int s = 0; s < T; s++)
#pragma unroll 1
    for (int n = 0; n < NT; n++, now ^= 1) {
      const int far_n = n + 2 < NT ? n + 2 : n + 2 - NT, far_s = n + 2 < NT ? s : s + 1; // the next unit but one
      u32 seen = 0;       // of its arrivals
      copies_wait<1>();
      SYNC(); // the state is there, and the projections
      UNIT_PRODUCT
      PLACE
      LEAVE_SUMS
      SYNC(); // the parts of the sums are there; all have read the state
      UNIT_GATES(s, n, s + 1 < T)
      MEET(n ? s + 1 < T : s > 0, LAST_TILE(n), far_s < T ? GROUP * (far_s + 1) : 0, far_n, seen)
      SYNC(); // the lines are there and the state is shared; all have read the projections, and others' states are there
      WRITE(s, n) // first: the next fence waits for it
      if (far_s < T) COPY_STATE(far_s, far_n, now)
      READ(far_s, far_n)
    }
#endif
#pragma unroll 1
  for (int n = 0; n < NT; n++) {
    PLACE
    const float2 h = held[n * 4 * HC];
#pragma unroll
    for (int j = 0; j < 2; j++) {
      const int row = row0 + n * 8 + 2 * q + j;
      if (kg < 2 && row < N) last[((size_t)direction * N + row) * H + column] = j ? h.y : h.x;
    }
  }
}
