// GRUs over time in one launch, one or two in opposite directions.
//
// No cluster waits for another. A block's weights stay in registers. Its part of the state goes to the eight blocks
// of the cluster by asynchronous stores into their shared memory, whose barriers count bytes.
//
// Constants: see place.cuh; SAVED: whether there will be a backward pass; F16: operands in half precision, over
// powers of two, in place of bfloat16.
#include "primitives.cuh"

#include "place.cuh"
#define FORWARD_KERNEL KERNEL
#define PRODUCTS NT
#define STATE_BUFFERS 2
#define BAR_BYTES 16
#define RANK cluster_rank()
#define EXCHANGE_READS
#define EXCHANGE_MAKES
#define EXCHANGE_INIT                                     \
  if (THREAD == 0) {                                      \
    for (int i = 0; i < 2; i++) bar_init(s_bar + 8 * i, 1); \
    bar_expect(s_bar + 8, NT * TILE); /* of step 1 */     \
    bar_init_fence();                                     \
  }
#define EXCHANGE_PLACES                             \
  u32 to_h[8], to_bar[8];                           \
  _Pragma("unroll") for (int p = 0; p < 8; p++) {   \
    to_h[p] = map_to(s_h + column * 16 + q * 4, p); \
    to_bar[p] = map_to(s_bar, p);                   \
  }
#define EXCHANGE_BEGIN READ(0) READ(1) cluster_sync();
#define STATE(n) ((now * NT + n) * TILE)
#define STATE_WAIT(s)                                                          \
  if (s) {                                                                     \
    bar_wait(s_bar + 8 * now, ((s - now) >> 1 & 1) ^ (now ? 0 : 1));           \
    if (THREAD == 0) bar_expect(s_bar + 8 * next, NT * TILE);                  \
  }
#define READ_WAIT copies_wait<1>();
#define STATE_SEND(n, sent)                                                    \
  if (s + 1 < T) {                                                             \
    _Pragma("unroll") for (int p8 = 0; p8 < 8; p8++)                           \
      send(to_h[p8] + (next * NT + n) * TILE, sent, to_bar[p8] + 8 * next);    \
  }
#define STATE_SENT(s)
#define READ_MORE(s) READ(s + 2)
#define EXCHANGE_END cluster_sync(); // no block leaves before what it has sent has arrived
#include "forward.cuh"
