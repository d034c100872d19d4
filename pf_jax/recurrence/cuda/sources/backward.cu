// The way back of GRUs over time in one launch, one or two in opposite directions.
//
// A block forms the cotangents of its own columns' gates, multiplies them by its columns of U, and sends every block
// of the cluster the part of dh that is that one's. So sums stay in float32, in an order that is always the same. As in
// forward.cu a unit of work is a step of one of the cluster's tiles of 8 rows, which take turns.
//
// Why nothing is overwritten too soon: threads meet once a unit, between its cotangents and its product. What they leave
// for the product and for the writing, the next unit but one writes anew; by then all have met in the one between, behind
// both. Sums of two steps on arrive when all blocks have what this one has sent since it read the former.
//
// With F16 the operands are in half precision, which has the ten bits of TF32 but not its range: cotangents of a row are
// multiplied by a power of two that brings the largest of the block's to 2^14 to 2^15, and its sums by the inverse. So what
// is 2^29 times smaller still has ten bits.
//
// With MOVES_AMID a thread writes what the unit has left, and reads what a later one needs, amid the product.
//
// Constants: see place.cuh; HALF_D: whether d_hidden is in half precision, float32 otherwise; HAS_DA: whether there
// are cotangents of the preactivations; F16.
#include "primitives.cuh"

#include "lanes.cuh"
#include "place.cuh"
#define EXCHANGE_READS
#define EXCHANGE_MAKES
#define MT (H / 16 / WARPS)     // tiles of 16 units of dh of a warp
#define KB (3 * HC / 16)        // tiles of 16 terms of a product
#define DTILE (3 * HC * 16)     // bytes of the operand of 8 rows, [3 HC][8]
#define STILE (H * 8 * 4)       // bytes of the parts of dh of 8 rows, [GROUP][HC][8]

// Shared memory, in bytes: operands of two units, parts of sums of two steps, what three units read, what two leave, what
// the carry keeps of its cotangent, and a thread's sums over steps and rows
#define AT_SUMS (2 * DTILE)
#define AT_READ (AT_SUMS + 2 * NT * STILE)
#define AT_LEFT (AT_READ + 3 * READ_BYTES)
#define AT_HELD (AT_LEFT + 2 * LEFT(4))
#define AT_TOTALS (AT_HELD + NT * 8 * HC * 4)
#define AT_LARGEST (AT_TOTALS + THREADS * 16)  // of each row, for two units; behind them the scale of w
#define AT_BARS (AT_LARGEST + F16 * (2 * 8 * 4 + 16))
#define SHARED_BYTES (AT_BARS + NT * 16)
#include "backward.cuh"

KERNEL gru_backward(ARRAYS) {
  SHARED
  OF_MODEL_ARRAYS
  const int lane = THREAD & 31, warp = THREAD >> 5, mg = warp % MG, half = warp / MG & 1;
  const int g = lane >> 2, q = lane & 3;
  PLACE_OF_BLOCK // a cluster's blocks follow one another
  const int own = mg * 16 + half * 8, local = own + g, column = rank * HC + local;
  const u32 s_d = smem_of(smem), s_read = s_d + AT_READ;
  // The weights, for good.
  u32 a[MT][KB][4];
#pragma unroll
  for (int m = 0; m < MT; m++)
#pragma unroll
    for (int k = 0; k < KB; k++) {
      const int gate = k * 16 / HC, at = gate * H + rank * HC + k * 16 % HC;
      const u32* p = (const u32*)(w + (size_t)(direction * H + (warp * MT + m) * 16 + g) * (3 * H) + at) + q;
      a[m][k][0] = p[0];
      a[m][k][1] = p[8 * 3 * H / 2];
      a[m][k][2] = p[4];
      a[m][k][3] = p[8 * 3 * H / 2 + 4];
    }
  if (THREAD == 0) {
    for (int i = 0; i < 2 * NT; i++) bar_init(s_d + AT_BARS + 8 * i, 1);
    for (int n = 0; n < NT; n++) bar_expect(s_d + AT_BARS + 16 * n, STILE); // of step 0
    bar_init_fence();
  }
#if F16
  u32* const largest = (u32*)(smem + AT_LARGEST);
  if (THREAD < 2 * 8) largest[THREAD] = 0;
  if (THREAD == 0) ((float*)largest)[2 * 8] = scale[F16];
// Of a row of unit u, what its sums are multiplied by.
#define OF_SUMS(u, j) (((const float*)largest)[2 * 8] * of_half(largest[((u)&1) * 8 + 2 * q + j]))
#else
#define OF_SUMS(u, j) 1.f
#endif
// The sums of the cotangents of r, z, U h + c and a, over steps and the thread's rows.
#define TOTALS ((float4*)(smem + AT_TOTALS))[thread_here()]
  float4 totals_ = {0.f, 0.f, 0.f, 0.f};
  TOTALS = totals_;
#pragma unroll 1
    for (int n = 0; n < NT; n++) {
      const int row = row0 + n * 8 + 2 * q;
      const float* const from = d_last + ((size_t)direction * N + row) * H + column;
      OWN_CARRY(n) = pair_of(row < N ? from[0] : 0.f, row + 1 < N ? from[H] : 0.f);
    }

  // What a warp moves between arrays over time and shared memory, a kind each. All but the last read: h, a, r, z, U h + c,
  // d_hidden and d_pre; all but the sixth and the seventh write. A lane has pieces of 16 bytes: in half precision of a row
  // and of the fourth behind it, in float32 of four rows, every other one.
#define PIECE(is_long) (lane & ((is_long) ? 15 : 7))
#define OF_TILE(is_long) (lane >> ((is_long) ? 4 : 3))
  const int t_first = IN_TIME(T - 1), written = (warp + 1) & 7, gate = written % 3;
  const bool reads_long = warp == 6 || (warp == 5 && !HALF_D);
  const char* from = (const char*)(warp == 0 ? before + (size_t)direction * T * N * H : warp == 1 ? PICK(a) : warp == 2 ? PICK(r) : warp == 3 ? PICK(z) : PICK(v));
  if (warp == 5) from = (const char*)d_hidden + direction * H * (HALF_D ? 2 : 4);
#if HAS_DA
  if (warp == 6) from = (const char*)(d_pre + direction * H);
#endif
  char* to_written = (char*)(written < 3 ? product + (size_t)direction * T * N * 3 * H : projections + direction * 3 * H);
  const int from_bytes = (reads_long ? 4 : 2) * H * (warp < 5 ? 1 : S);
#define TO_BYTES ((int)sizeof(left_t) * 3 * H * (written < 3 ? 1 : S))
  from += ((long long)t_first * N + row0 + OF_TILE(reads_long)) * from_bytes + (reads_long ? 4 : 2) * rank * HC + 16 * PIECE(reads_long);
  to_written += ((long long)t_first * N + row0 + OF_TILE(F16)) * TO_BYTES + (int)sizeof(left_t) * (gate * H + rank * HC) + 16 * PIECE(F16);
// From tile n to the next, or to the first of the next step.
#define ADVANCED(n, bytes) (bytes) * ((n) + 1 < NT ? 8 : (direction ? N : -N) - 8 * (NT - 1))
#define COPY(at_, line, is_long, tile)                                                                    \
  _Pragma("unroll") for (int i = 0; i < 8; i += (is_long) ? 2 : 4)                                        \
    copy16(s_read + (at_) + (OF_TILE(is_long) + i) * (line) + 16 * PIECE(is_long), from + i * from_bytes, \
           row0 + (tile)*8 + OF_TILE(is_long) + i < N);
// What unit u reads.
#define READ(u)                                                               \
  {                                                                           \
    const int thread = thread_here(), lane = thread & 31, warp = thread >> 5; \
    if (warp < 6 + HAS_DA && (u) < T * NT) {                                  \
      const int tile = (u) % NT, at = (u) % 3 * READ_BYTES;                   \
      if (warp < 5) COPY(at + OF_READ(warp), LINE, false, tile)               \
      if (warp == 5) COPY(at + AT_D, DLINE, !HALF_D, tile)                    \
      if (warp == 6) COPY(at + AT_DA, LONG, true, tile)                       \
      from += ADVANCED(tile, from_bytes);                                     \
    }                                                                         \
    copies_commit();                                                          \
  }
// Writes what the unit has left, of tile n.
#define WRITE(n)                                                                                          \
  {                                                                                                       \
    const int thread = thread_here(), lane = thread & 31, written = (thread / 32 + 1) & 7;                \
    if (written < 6) {                                                                                    \
      const int kind = written < 3 ? written : written == 5 ? 3 : written % 3;                            \
      const unsigned char* const lines = smem + left + LEFT(kind) + OF_TILE(F16) * LEFT_LINE + 16 * PIECE(F16); \
      _Pragma("unroll") for (int i = 0; i < 8; i += F16 ? 2 : 4)                                          \
        if (row0 + n * 8 + OF_TILE(F16) + i < N) *(uint4*)(to_written + i * TO_BYTES) = *(const uint4*)(lines + i * LEFT_LINE); \
      to_written += ADVANCED(n, TO_BYTES);                                                                \
    }                                                                                                     \
  }
// Waits for the sums of a step of a tile, and adds them.
#define ADD_SUMS(dh, s, n)                                                                                  \
  {                                                                                                         \
    bar_wait(s_d + AT_BARS + 16 * (n) + 8 * ((s)&1), (s) >> 1 & 1);                                         \
    const float2* const part = (const float2*)(smem + AT_SUMS + ((n)*2 + ((s)&1)) * STILE) + local * 4 + q; \
    _Pragma("unroll") for (int p = 0; p < GROUP; p++) {                                                     \
      const float2 both = part[p * HC * 4];                                                                 \
      dh[0] += both.x;                                                                                      \
      dh[1] += both.y;                                                                                      \
    }                                                                                                       \
  }
  READ(0)
  READ(1)
  READ(2)
  copies_wait<2>();
  cluster_sync();

#pragma unroll 1
  for (int u = 0; u < T * NT; u++) {
    const int s = u / NT, n = u % NT;
    FACTORS // found before dh is known
    FIND_FACTORS(AT_READ + u % 3 * READ_BYTES, own * 2)
    float dh[2] = {};
    if (s) {
      ADD_SUMS(dh, s - 1, n)
      if (THREAD == 0) bar_expect(s_d + AT_BARS + 16 * n + 8 * (s & 1), STILE);
    }
    const float2 kept = OWN_CARRY(n);
    dh[0] += kept.x;
    dh[1] += kept.y;
    float d[4][2]; // cotangents of r, z, U h + c, a
#pragma unroll
    for (int j = 0; j < 2; j++) FIND_COTANGENTS(d, dh[j], dh[j], j)
    OWN_CARRY(n) = pair_of(dh[0], dh[1]);
    totals_ = TOTALS;
    totals_.x += d[0][0] + d[0][1];
    totals_.y += d[1][0] + d[1][1];
    totals_.z += d[2][0] + d[2][1];
    totals_.w += d[3][0] + d[3][1];
    TOTALS = totals_;
    const u32 left = AT_LEFT + (u & 1) * LEFT(4);
#if F16
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float* const line = (float*)(smem + left + LEFT(i) + 2 * q * LEFT_LINE) + local;
      line[0] = d[i][0];
      line[LEFT_LINE / 4] = d[i][1];
    }
    RAISE_LARGEST(d, largest + (u & 1) * 8)
#else
    u32 both[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      both[i] = pack_bf16(d[i][0], d[i][1]);
      if (i < 3) *(u32*)(smem + (u & 1) * DTILE + (i * HC + local) * 16 + q * 4) = both[i];
    }
    stsm4t(s_d + left + LEFT(lane >> 3) + (lane & 7) * LEFT_LINE + own * 2, both[0], both[1], both[2], both[3]);
#endif
    copies_wait<1>(); // all but the last: what the next unit reads
    SYNC();           // and that of all threads; the operand and the lines are there
#if F16
    for (int i = thread_here(); i < 3 * HC; i += THREADS) {
      const int of_block = i % HC, kind = i / HC;
      const u32* const of_tile = largest + (u & 1) * 8;
      const unsigned char* const lines = smem + left + LEFT(kind) + of_block * 4;
      u32 x[4];
#pragma unroll
      for (int k = 0; k < 4; k++)
        x[k] = pack_f16(to_half(of_tile[2 * k]) * *(const float*)(lines + 2 * k * LEFT_LINE),
                        to_half(of_tile[2 * k + 1]) * *(const float*)(lines + (2 * k + 1) * LEFT_LINE));
      uint4 all;
      all.x = x[0];
      all.y = x[1];
      all.z = x[2];
      all.w = x[3];
      *(uint4*)(smem + (u & 1) * DTILE + (kind * HC + of_block) * 16) = all;
    }
    if (THREAD < 8) largest[(~u & 1) * 8 + THREAD] = 0; // of the next unit
    SYNC(); // the operand is there
#endif
    float sums[MT][4] = {};
#pragma unroll
    for (int k = 0; k < KB; k += 2) {
      if (MOVES_AMID && k == KB / 6 * 2) WRITE(n)
      if (MOVES_AMID && k == KB / 3 * 2) READ(u + 3)
      u32 b0, b1, b2, b3;
      ldsm4t(s_d + (u & 1) * DTILE + (k * 16 + lane) * 16, b0, b1, b2, b3);
#pragma unroll
      for (int m = 0; m < MT; m++) mma(sums[m], a[m][k], b0, b1);
#pragma unroll
      for (int m = 0; m < MT; m++) mma(sums[m], a[m][k + 1], b2, b3);
    }
    u32 to = 0;
#pragma unroll
    for (int m = 0; m < MT; m++) {
      const int unit = (warp * MT + m) * 16;
      if (m == 0 || HC % (MT * 16)) to = map_anew(s_d, unit / HC);
      const u32 sum = AT_SUMS + (n * 2 + (s & 1)) * STILE + ((rank * HC + unit % HC + g) * 8 + 2 * q) * 4;
#pragma unroll
      for (int i = 0; i < 2; i++)
        send2(to + sum + i * 8 * 8 * 4, OF_SUMS(u, 0) * sums[m][2 * i], OF_SUMS(u, 1) * sums[m][2 * i + 1],
              to + AT_BARS + 16 * n + 8 * (s & 1));
    }
    if (!MOVES_AMID) { // while that is on its way
      WRITE(n)
      READ(u + 3)
    }
  }
#pragma unroll 1
  for (int n = 0; n < NT; n++) {
    float dh[2] = {};
    ADD_SUMS(dh, T - 1, n)
    const float2 kept = OWN_CARRY(n);
    const int row = row0 + n * 8 + 2 * q;
    float* const to_carry = d_carry + ((size_t)direction * N + row) * H + column;
    if (row < N) to_carry[0] = dh[0] + kept.x;
    if (row + 1 < N) to_carry[H] = dh[1] + kept.y;
  }
  totals_ = TOTALS;
  SYNC(); // the lines of the last units are written, and the threads' sums are read
  float* const of_thread = (float*)(smem + AT_LEFT) + local * 4 + q;
  of_thread[0] = totals_.x;
  of_thread[4 * HC] = totals_.y;
  of_thread[8 * HC] = totals_.z;
  of_thread[12 * HC] = totals_.w;
  SYNC();
  WRITE_TOTALS(AT_LEFT)
  cluster_sync(); // no block leaves before what it has sent has arrived
}
