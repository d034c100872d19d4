// What forward.cu and rollout.cu have in common beside the weights: a warp of kg multiplies some of the terms, and the warps
// of kg 0 and 1 finish the columns, eight each.
#pragma once
#define PART (MG * 2 * (KG - 1) * 3 * 256) // bytes of the parts of a unit's sums

// Hands a warp's sums to the warp that finishes them; its own stay where they are.
#define HAND_OVER(sums, parts)                                                   \
  _Pragma("unroll") for (int to_ = 0; to_ < 2; to_++)                            \
    if (kg != to_)                                                               \
      _Pragma("unroll") for (int gate = 0; gate < 3; gate++)                     \
        (parts)[((to_ * (KG - 1) + (kg < to_ ? kg : kg - 1)) * 3 + gate) * 32] = \
            pair_of(sums[gate][2 * to_], sums[gate][2 * to_ + 1]);
// Of the thread's column and its two rows, the sums of all warps.
#define ADD_PARTS(sum, sums, parts)                                         \
  _Pragma("unroll") for (int gate = 0; gate < 3; gate++) {                  \
    sum[gate][0] = half ? sums[gate][2] : sums[gate][0];                    \
    sum[gate][1] = half ? sums[gate][3] : sums[gate][1];                    \
    _Pragma("unroll") for (int i = 0; i < KG - 1; i++) {                    \
      const float2 both = (parts)[((half * (KG - 1) + i) * 3 + gate) * 32]; \
      sum[gate][0] += both.x;                                               \
      sum[gate][1] += both.y;                                               \
    }                                                                       \
  }
