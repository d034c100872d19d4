// What forward_l2.cu, rollout_l2.cu and backward_l2.cu have in common: the blocks of a group, which meet in the device's
// memory, go through its tiles of 8 rows one after the other, each with a counter of its own. While the states of one tile,
// or backward its cotangents, are on their way to the other blocks, the next is multiplied. A unit of work is a step of a
// tile:
//
//   its state is in shared memory, copied there amid the unit before;
//   the recurrent product, and amid it the copy of the next unit's state;
//   the gates; the new state is shared, and what the step leaves is written.
//
// A group of three tiles and more copies two units ahead, behind the gates, and one of its warps that have no gates to
// compute meets the other blocks meanwhile: no thread that multiplies waits for the device's memory.
//
// Why nothing is overwritten too soon: a block begins step t of a tile when all have shared its state, so all have ended
// step t - 1 and read the state of t - 1, whose buffer is that of t + 1. Groups do not wait for one another, but the
// blocks of one do: all of them have to run at once.
//
// The files say in these names where they differ; backward_l2.cu has the last two of the places alone:
//   AT_PARTS, AT_LEFT, AT_BIAS  where in shared memory lie parts of sums, the lines that a step leaves, and the bias of
//                         the block's columns
//   AT_HELD, AT_MEETING   where lie the carry, and the addresses of what is shared and of the counters
//   AMID                  what is done amid the product
//   INPUT(gate, j)        W x + b of a thread's row
// and may say in AMID_AT where amid it is.
#pragma once
// Where a thread works: it finishes one column of two rows of each tile, in the warps of kg 0 and 1. Asked for anew behind
// the product, which leaves no registers for it.
#define PLACE                                                                                               \
  const int thread = thread_here(), lane = thread & 31, warp = thread >> 5, mg = warp % MG, kg = warp / MG; \
  const int g = lane >> 2, q = lane & 3, half = kg & 1, local = mg * 16 + 8 * half + g;                     \
  const int column = OWN_BLOCK % GROUP * HC + local;                                                        \
  float2* const held = (float2*)(smem + AT_HELD) + (mg * 2 + half) * 32 + lane; /* its numbers of the carry */

// states: [groups, NT, 2, H, 8]. counters: [groups, NT, 32]; of a tile's 32 the first counts states.
// Addresses are read anew where they are used: in registers there is no place for them.
#define STATES (((u16* const*)(smem + AT_MEETING))[0])
#define COUNTER(n) (((u32* const*)(smem + AT_MEETING))[1] + (n)*32)
#define SHARE_STATE(n, step, sent) share((u32*)(STATES + (((n)*2 + ((step)&1)) * H + column) * 8 + 2 * q), sent);
// Copies the state of a step of a tile into buffer `b`, of two.
#define COPY_STATE(step, n, b)                     \
  for (int i = thread_here(); i < H; i += THREADS) \
    copy16(s_h + (b)*TILE + i * 16, STATES + (((n)*2 + ((step)&1)) * H + i) * 8, true);

#ifndef AMID_AT
#define AMID_AT (KT / 4 * 2) // tile of terms before which is done what is done amid the product
#endif
// The product of the state in buffer `now` with the block's columns of the weights, in parts.
#define UNIT_PRODUCT                                                                                \
  float sums[3][4] = {};                                                                            \
  _Pragma("unroll") for (int k = 0; k < KT; k += 2) {                                               \
    if (k == AMID_AT) {                                                                             \
      AMID                                                                                          \
    }                                                                                               \
    u32 b0, b1, b2, b3;                                                                             \
    ldsm4t(s_h + now * TILE + ((kg * KT + k) * 16 + lane) * 16, b0, b1, b2, b3);                    \
    _Pragma("unroll") for (int gate = 0; gate < 3; gate++) mma(sums[gate], a[gate][k], b0, b1);     \
    _Pragma("unroll") for (int gate = 0; gate < 3; gate++) mma(sums[gate], a[gate][k + 1], b2, b3); \
  }

// To shared memory, behind `PLACE`.
#define LEAVE_SUMS                                       \
  _Pragma("unroll") for (int gate = 0; gate < 3; gate++) \
  _Pragma("unroll") for (int i = 0; i < 4; i++)          \
    ((float*)(smem + AT_PARTS))[((mg * KG + kg) * 12 + gate * 4 + i) * 32 + lane] = sums[gate][i];

// In a warp without gates, while others compute those of a unit: tells the other blocks what the unit before has shared, of
// tile `last_n`, if it has (`is_due`); and waits until they have arrived for what is copied next, of tile `far_n`, of which
// the thread has seen `seen` arrivals. A fence takes as long as what the block has written is on its way, so it comes a
// unit later.
#define MEETS (THREADS - 32) // the thread
#define MEET(is_due, last_n, awaited, far_n, seen)                  \
  if (thread == MEETS) {                                            \
    fence();                                                        \
    if (is_due) count(COUNTER(last_n));                             \
    if ((int)(seen) < (awaited)) wait_for(COUNTER(far_n), awaited); \
  }
#define LAST_TILE(n) ((n) ? (n)-1 : NT - 1) // of the unit before

// The gates of step t of tile n, of which the state is shared where others wait for it; and the lines of what is left.
#define LEAVE(kind, both)                                   \
  {                                                         \
    const u32 b = both;                                     \
    *(u16*)(left + kind * 8 * LINE) = (u16)b;               \
    *(u16*)(left + (kind * 8 + 1) * LINE) = (u16)(b >> 16); \
  }
#define UNIT_GATES(t, n, is_awaited)                                                                          \
  if (kg < 2) {                                                                                               \
    const float* const p = (const float*)(smem + AT_PARTS) + mg * KG * 12 * 32 + lane;                        \
    unsigned char* const left = smem + AT_LEFT + 2 * q * LINE + local * 2;                                    \
    const float2 before_ = held[n * 4 * HC];                                                                  \
    const float c = ((const float*)(smem + AT_BIAS))[local];                                                  \
    float h[2] = {before_.x, before_.y}, pre[2], r_[2], z_[2], v_[2];                                         \
    _Pragma("unroll") for (int j = 0; j < 2; j++) {                                                           \
      float u[3];                                                                                             \
      _Pragma("unroll") for (int gate = 0; gate < 3; gate++) {                                                \
        u[gate] = 0;                                                                                          \
        _Pragma("unroll") for (int i = 0; i < KG; i++) u[gate] += p[(i * 12 + gate * 4 + 2 * half + j) * 32]; \
        u[gate] *= of_product;                                                                                \
      }                                                                                                       \
      r_[j] = sigmoid(INPUT(0, j) + u[0]);                                                                    \
      z_[j] = sigmoid(INPUT(1, j) + u[1]);                                                                    \
      v_[j] = u[2] + c;                                                                                       \
      pre[j] = INPUT(2, j) + r_[j] * v_[j];                                                                   \
      /* In this form an update gate of one keeps the state to the last bit. */                               \
      h[j] = (1.f - z_[j]) * tanh_(pre[j]) + z_[j] * h[j];                                                    \
    }                                                                                                         \
    held[n * 4 * HC] = pair_of(h[0], h[1]);                                                                   \
    const u32 sent = pack_operand(of_state * h[0], of_state * h[1]);                                          \
    if (is_awaited) SHARE_STATE(n, t + 1, sent)                                                               \
    LEAVE(0, F16 ? pack_f16(clip(h[0]), clip(h[1])) : sent)                                                   \
    LEAVE(1, pack_f16(clip(pre[0]), clip(pre[1])))                                                            \
    if (SAVED) {                                                                                              \
      LEAVE(2, pack_f16(r_[0], r_[1]))                                                                        \
      LEAVE(3, pack_f16(z_[0], z_[1]))                                                                        \
      LEAVE(4, pack_f16(clip(v_[0]), clip(v_[1])))                                                            \
    }                                                                                                         \
  }
