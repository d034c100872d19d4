// forward.cu for devices without clusters, and for more units than a cluster's registers hold weights of.
//
// The blocks of a group exchange states through the device's memory, which is its L2 cache. Each writes its columns of
// the new state into one of two buffers, and raises the group's counter when all of its threads have; a step begins when
// the counter says that all blocks have. A block that has ended step s has read the state of s, so all of them have read
// that of s - 1 when the counter says so, and its buffer may be written anew. Groups do not wait for one another, but the
// blocks of one do: all of them have to run at once.
//
// Constants: as in forward.cu, and GROUP: the number of blocks of a group.
#include "primitives.cuh"

#include "place.cuh"
#define FORWARD_KERNEL GRID_KERNEL
#define PRODUCTS (NT > 2 ? 1 : NT) // unrolled, more of them take more registers than there are
#define STATE_BUFFERS 1
#define BAR_BYTES 0
#define RANK (OWN_BLOCK % GROUP)
// zeros: [groups, 32], the same memory as counters: a group's is the first of its 32, which share no line with another's.
// states: [groups, 2, NT, H, 8], of which a kernel leaves the last two.
#define EXCHANGE_READS const u32*,
#define EXCHANGE_MAKES , u16 *states, u32 *counters
#define EXCHANGE_INIT                                           \
  states += (size_t)(BLOCK / GROUP) * 2 * NT * H * 8;           \
  counters += BLOCK / GROUP * 32;
#define EXCHANGE_PLACES
#define EXCHANGE_BEGIN READ(0) SYNC();
#define STATE(n) ((n) * TILE)
// The projections of the next step are read behind the state, for which alone this waits.
#define STATE_WAIT(s)                                                              \
  if (s) {                                                                         \
    if (THREAD == 0) wait_for(counters, GROUP * (s));                              \
    SYNC(); /* and for that thread */                                              \
    for (int i = thread_here(); i < NT * H; i += THREADS)                          \
      copy16(s_h + i * 16, states + ((size_t)now * NT * H + i) * 8, true);         \
  }                                                                                \
  copies_commit();                                                                 \
  READ(s + 1)                                                                      \
  copies_wait<1>();                                                                \
  SYNC();
#define READ_WAIT
#define STATE_SEND(n, sent) \
  if (s + 1 < T) share((u32*)(states + ((next * NT + n) * H + column) * 8 + 2 * q), sent);
#define STATE_SENT(s) \
  if (s + 1 < T && THREAD == 0) arrive(counters);
#define READ_MORE(s)
#define EXCHANGE_END
#include "forward.cuh"
