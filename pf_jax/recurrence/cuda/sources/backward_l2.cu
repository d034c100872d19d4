// backward.cu for devices without clusters, and for more units than a cluster's registers hold weights of.
//
// Where the blocks of a cluster exchange parts of dh, those of a group exchange cotangents of the gates, and a block
// multiplies those of all columns by its own rows of U. A unit of work, see units.cuh, begins with the product of what
// step s - 1 has left and ends with the cotangents of step s, so there is one step more than T, the last without
// cotangents and the first without a product.
//
// With F16 cotangents of a row are multiplied by a power of two as in backward.cu, one for each block, which shares it
// beside them: a sum over the columns of a block is multiplied by the inverse before it is added to the others.
//
// Constants: as in backward.cu, and GROUP: the number of blocks of a group; HELD: number of tiles of 8 rows whose
// cotangents are in shared memory at once, 1 or 2. With one, nothing is copied amid a product.
#include "primitives.cuh"

#include "lanes.cuh"
#include "place.cuh"
// zeros: the same memory as counters. deltas: [groups, NT, 2, DLINES, 8]. A kernel leaves the last two.
#define EXCHANGE_READS const u32*,
#define EXCHANGE_MAKES , u16 *deltas, u32 *counters
#define KG (WARPS / MG)                    // warps along the terms of a product
#define SOURCES (GROUP / KG)               // blocks of which a warp multiplies the cotangents
#define CHAINS (F16 ? 2 : 3)               // sums of a tile that do not wait for one another: of 12 numbers a thread, as many as registers have room for
#define DLINES (3 * H + F16 * 2 * GROUP)   // cotangents of 8 rows; behind them what sums over a block's columns are multiplied by, float
#define DTILE (DLINES * 16)

// Shared memory, in bytes: cotangents of HELD units, parts of sums, what two units read, what one leaves, dh, and sums
// over steps and rows
#define AT_PARTS (HELD * DTILE)
#define AT_READ (AT_PARTS + WARPS * 4 * 32 * 4)
#define AT_LEFT (AT_READ + 2 * READ_BYTES)
#define AT_HELD (AT_LEFT + LEFT(4))
#define AT_TOTALS (AT_HELD + NT * 8 * HC * 4)
#define AT_LARGEST (AT_TOTALS + 4 * HC * 4 * 4) // of each row, for two units
#define AT_MEETING (AT_LARGEST + F16 * 2 * 8 * 4)
#define SHARED_BYTES (AT_MEETING + 2 * 8)
#define AHEAD (IS_AHEAD && NT > 2 && HELD == 2 ? 2 : 1) // units of work by which cotangents are copied ahead
#include "backward.cuh"
#include "units.cuh"
static_assert(MG * KG == WARPS && KG >= 2 && GROUP % KG == 0, "two warps finish the columns, each has as many blocks");
static_assert(HC == 32, "a gate's columns of a block are two tiles of terms");

// Copies what step s reads of rows from `row0_` on: five lines a row of 16 bits, and those of cotangents.
#define COPY_READ(s, row0_, to)                                                         \
  {                                                                                     \
    const int first = row0_;                                                            \
    const size_t t_rows = (size_t)IN_TIME(T - 1 - (s)) * N + first;                     \
    for (int i = thread_here(); i < 5 * 8 * PIECES; i += THREADS) {                     \
      const int piece = i % PIECES, line = i / PIECES, kind = line / 8, row = line % 8; \
      const bool is_row = first + row < N;                                              \
      const u16* const from = kind == 0   ? before + (size_t)direction * T * N * H      \
                              : kind == 1 ? PICK(a)                                     \
                              : kind == 2 ? PICK(r)                                     \
                              : kind == 3 ? PICK(z)                                     \
                                          : PICK(v);                                    \
      copy16((to) + line * LINE + piece * 16,                                           \
             from + (is_row ? (t_rows + row) * H + rank * HC + piece * 8 : 0), is_row); \
    }                                                                                   \
    COPY_D(d_hidden, HALF_D ? 2 : 4, (to) + AT_D, DLINE)                                \
    COPY_D_PRE(to)                                                                      \
  }
#define COPY_D(array, bytes, to, width)                                                  \
  for (int i = thread_here(); i < 8 * HC * (bytes) / 16; i += THREADS) {                 \
    const int piece = i % (HC * (bytes) / 16), row = i / (HC * (bytes) / 16);            \
    const bool is_row = first + row < N;                                                 \
    const size_t number = (t_rows + row) * (S * H) + direction * H + rank * HC;          \
    copy16((to) + row * (width) + piece * 16,                                            \
           (const char*)(array) + (is_row ? number * (bytes) + piece * 16 : 0), is_row); \
  }
#if HAS_DA
#define COPY_D_PRE(to) COPY_D(d_pre, 4, (to) + AT_DA, LONG)
#else
#define COPY_D_PRE(to)
#endif
// Writes what step s has left of rows from `row0_` on: six arrays, for which four kinds of lines are there.
#define LEFT_PIECES (HC * (F16 ? 4 : 2) / 16)
#define WRITE_LEFT(s, row0_)                                                                                  \
  {                                                                                                           \
    const size_t t_rows = (size_t)IN_TIME(T - 1 - (s)) * N + (row0_);                                         \
    for (int i = thread_here(); i < 6 * 8 * LEFT_PIECES; i += THREADS) {                                      \
      const int piece = i % LEFT_PIECES, line = i / LEFT_PIECES, kind = line / 8, row = line % 8;             \
      const int from = (kind < 3 ? kind : kind == 5 ? 3 : kind - 3) * 8 + row;                                \
      const size_t at = kind < 3 ? ((size_t)direction * T * N + t_rows + row) * (3 * H) + kind * H            \
                                 : (t_rows + row) * (S * 3 * H) + direction * 3 * H + (kind - 3) * H;         \
      if ((row0_) + row < N)                                                                                  \
        *(uint4*)((kind < 3 ? product : projections) + at + rank * HC + piece * (16 / (int)sizeof(left_t))) = \
            *(const uint4*)(smem + AT_LEFT + from * LEFT_LINE + piece * 16);                                  \
    }                                                                                                         \
  }

GRID_KERNEL gru_backward(ARRAYS) {
  SHARED
  OF_MODEL_ARRAYS
  PLACE
  PLACE_OF_BLOCK
  const u32 s_d = smem_of(smem);
  // The block's rows of the weights, in a thread's registers for good: by gates of blocks, in two tiles of terms.
  u32 a[3 * SOURCES][2][4];
#pragma unroll
  for (int i = 0; i < 3 * SOURCES; i++)
#pragma unroll
    for (int k = 0; k < 2; k++) {
      const int term = i % 3 * H + (kg * SOURCES + i / 3) * HC + k * 16;
      const u32* p = (const u32*)(w + (size_t)(direction * H + rank * HC + mg * 16 + g) * (3 * H) + term) + q;
      a[i][k][0] = p[0];
      a[i][k][1] = p[8 * 3 * H / 2];
      a[i][k][2] = p[4];
      a[i][k][3] = p[8 * 3 * H / 2 + 4];
    }
  if (THREAD == 0) {
    ((u16**)(smem + AT_MEETING))[0] = deltas + (size_t)(BLOCK / GROUP) * NT * 2 * DLINES * 8;
    ((u32**)(smem + AT_MEETING))[1] = counters + (size_t)(BLOCK / GROUP) * NT * 32;
  }
  for (int i = THREAD; i < 4 * HC * 4; i += THREADS) ((float*)(smem + AT_TOTALS))[i] = 0.f;
  if (F16 && THREAD < 2 * 8) ((u32*)(smem + AT_LARGEST))[THREAD] = 0;
  if (kg < 2)
#pragma unroll 1
    for (int n = 0; n < NT; n++) {
      const int row = row0 + n * 8 + 2 * q;
      const float* const from = d_last + ((size_t)direction * N + row) * H + rank * HC + local;
      held[n * 4 * HC] = pair_of(row < N ? from[0] : 0.f, row + 1 < N ? from[H] : 0.f);
    }
  COPY_READ(0, row0, s_d + AT_READ)
  copies_commit();
#if AHEAD == 2
  COPY_READ(0, row0 + 8, s_d + AT_READ + READ_BYTES)
  copies_commit();
#endif
  SYNC(); // the addresses are there

// The cotangents of a step of a tile: a line, of those of the group.
#define DELTAS(n, step, line) ((((u16* const*)(smem + AT_MEETING))[0]) + (((n)*2 + ((step)&1)) * DLINES + (line)) * 8)
#define COPY_DELTAS(step, n, b)                                             \
  _Pragma("unroll 1") for (int i = thread_here(); i < DLINES; i += THREADS) \
    copy16(s_d + (b)*DTILE + i * 16, DELTAS(n, step, i), true);
// The product of the cotangents in a buffer with the block's rows of the weights, in parts: pairs of tiles from `from` on.
#define MULTIPLY(from, to, b)                                                                       \
  _Pragma("unroll") for (int i = from; i < to; i++) {                                               \
    const int gate = i % 3, source = kg * SOURCES + i / 3;                                          \
    u32 b0, b1, b2, b3;                                                                             \
    ldsm4t(s_d + (b)*DTILE + (gate * H + source * HC + lane) * 16, b0, b1, b2, b3);                 \
    mma(parts[gate % CHAINS], a[i][0], b0, b1);                                                     \
    mma(parts[gate % CHAINS], a[i][1], b2, b3);                                                     \
    if (F16 && gate == 2)                                                                           \
      _Pragma("unroll") for (int k = 0; k < 4; k++) {                                               \
        sums[k] += of_bits(from_lane(of_sums[k & 1], i / 3 * 4 + q)) * (parts[0][k] + parts[1][k]); \
        parts[0][k] = parts[1][k] = 0;                                                              \
      }                                                                                             \
  }
  int now = 0; // the unit's buffer
#pragma unroll 1
  for (int s = 0; s <= T; s++)
#pragma unroll 1
    for (int n = 0; n < NT; n++, now ^= 1) {
#if AHEAD == 1
      const int next = now ^ 1, next_n = n + 1 < NT ? n + 1 : 0, next_s = next_n ? s : s + 1;
#else
      const int next = now ^ 1, next_n = n + 2 < NT ? n + 2 : n + 2 - NT, next_s = n + 2 < NT ? s : s + 1;
#endif
      if (HELD == 1 && s) {
        if (THREAD == 0) wait_for(COUNTER(n), GROUP * s);
        SYNC(); // also for that thread
        COPY_DELTAS(s - 1, n, 0)
        copies_commit();
      }
#if AHEAD == 1
      if (next_s < T) {
        PLACE_OF_BLOCK
        COPY_READ(next_s, row0 + next_n * 8, s_d + AT_READ + next * READ_BYTES)
      }
      copies_commit();
#endif
      copies_wait<1>();
      SYNC(); // the cotangents are there, and what the unit reads
      float parts[CHAINS][4] = {}, sums[4] = {};
      const int b = HELD == 1 ? 0 : now;
      u32 of_sums[2] = {}; // what sums over a block's columns are multiplied by, of two rows: a lane has those of one block
      if (F16 && s && lane < 4 * SOURCES) {
        const u32* const of_block = (const u32*)(smem + b * DTILE + 3 * H * 16) + kg * SOURCES * 8 + 2 * lane;
        of_sums[0] = of_block[0];
        of_sums[1] = of_block[1];
      }
      if (s) MULTIPLY(0, 3 * SOURCES / 2, b)
      u32 seen = 0; // arrivals for what is copied
      if (AHEAD == 2 && thread_here() == MEETS) seen = peek(COUNTER(next_n));
      if (AHEAD == 1 && HELD == 2) {
        const bool copies = next_s && next_s <= T;
        if (copies && THREAD == 0) wait_for(COUNTER(next_n), GROUP * next_s);
        SYNC(); // and for that thread
        if (copies) COPY_DELTAS(next_s - 1, next_n, next)
        copies_commit();
      }
      if (s) MULTIPLY(3 * SOURCES / 2, 3 * SOURCES, b)
      PLACE
      PLACE_OF_BLOCK
#pragma unroll
      for (int k = 0; k < 4; k++)
        ((float*)(smem + AT_PARTS))[((mg * KG + kg) * 4 + k) * 32 + lane] =
            F16 ? scale[F16] * sums[k] : parts[0][k] + parts[1][k] + parts[CHAINS - 1][k];
      SYNC(); // the parts of the sums are there; all have read the cotangents
      if (AHEAD == 2) MEET(n ? s < T : s > 0, LAST_TILE(n), next_s <= T ? GROUP * next_s : 0, next_n, seen)
      float d[4][2]; // cotangents of r, z, U h + c, a
      if (kg < 2) {
        float2 both = held[n * 4 * HC];
        float dh[2] = {both.x, both.y};
        if (s)
#pragma unroll
          for (int j = 0; j < 2; j++)
#pragma unroll
            for (int p = 0; p < KG; p++)
              dh[j] += ((const float*)(smem + AT_PARTS))[((mg * KG + p) * 4 + 2 * half + j) * 32 + lane];
        if (s < T) {
          FACTORS
          FIND_FACTORS(AT_READ + now * READ_BYTES, (mg * 16 + half * 8) * 2)
          FIND_COTANGENTS(d, dh[0], dh[0], 0)
          FIND_COTANGENTS(d, dh[1], dh[1], 1)
          held[n * 4 * HC] = pair_of(dh[0], dh[1]);
#pragma unroll
          for (int i = 0; i < 4; i++) {
            unsigned char* const left = smem + AT_LEFT + LEFT(i) + 2 * q * LEFT_LINE + local * (int)sizeof(left_t);
#if F16
            *(float*)left = d[i][0];
            *(float*)(left + LEFT_LINE) = d[i][1];
#else
            const u32 both = pack_bf16(d[i][0], d[i][1]);
            if (i < 3) share((u32*)DELTAS(n, s, i * H + rank * HC + local) + q, both);
            *(u16*)left = (u16)both;
            *(u16*)(left + LEFT_LINE) = (u16)(both >> 16);
#endif
            ((float*)(smem + AT_TOTALS))[(i * HC + local) * 4 + q] += d[i][0] + d[i][1];
          }
#if F16
          RAISE_LARGEST(d, (u32*)(smem + AT_LARGEST) + now * 8)
#endif
        } else {
#pragma unroll
          for (int j = 0; j < 2; j++) {
            const int row = row0 + n * 8 + 2 * q + j;
            if (row < N) d_carry[((size_t)direction * N + row) * H + rank * HC + local] = dh[j];
          }
        }
      }
#if AHEAD == 1
      if (s == T) continue;
#endif
#if F16
      SYNC(); // the block's largest of each row are there
      const u32* const largest = (const u32*)(smem + AT_LARGEST) + now * 8;
      if (kg < 2 && (AHEAD == 1 || s < T))
#pragma unroll
        for (int i = 0; i < 3; i++)
          share((u32*)DELTAS(n, s, i * H + rank * HC + local) + q,
                pack_f16(to_half(largest[2 * q]) * d[i][0], to_half(largest[2 * q + 1]) * d[i][1]));
      if (THREAD < 8 && (AHEAD == 1 || s < T)) {
        share((u32*)DELTAS(n, s, 3 * H + 2 * rank) + THREAD, bits_of(of_half(largest[THREAD])));
        ((u32*)(smem + AT_LARGEST))[next * 8 + THREAD] = 0; // of the next unit
      }
#endif
      SYNC(); // the lines are there and the cotangents are shared; the parts of the sums may be written anew
#if AHEAD == 1
      if (THREAD == 0) arrive(COUNTER(n));
      WRITE_LEFT(s, row0 + n * 8)
#else // also the others' cotangents
      {
        PLACE_OF_BLOCK
        if (next_s && next_s <= T) COPY_DELTAS(next_s - 1, next_n, now)
        if (next_s < T) COPY_READ(next_s, row0 + next_n * 8, s_d + AT_READ + now * READ_BYTES)
        copies_commit();
      }
      if (s < T) WRITE_LEFT(s, row0 + n * 8)
#endif
    }
  SYNC(); // the sums over steps and rows are there
  WRITE_TOTALS(AT_TOTALS)
}
