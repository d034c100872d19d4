// The primitives of pf_jax/recurrence/cuda/sources on a CPU: every thread is a fiber, the order of warps is random,
// what is sent to another block arrives late and out of order, and what is copied arrives when it is waited for.
#pragma once
#define PF_EMULATE
#include <ucontext.h>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <utility>
#include <vector>
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };

struct Barrier { int count, pending; long bytes; u32 phase; };
struct Meeting { int arrived = 0; u32 generation = 0; };
struct Warp { Meeting meeting; u32 in[32][8]; float c[32][4]; u32 out[32][4]; };
struct Shared { u32 *to, value; int thread; u32 generation; };
struct Block { std::vector<unsigned char> memory; Meeting meeting, others[16]; std::vector<Warp> warps; std::vector<Barrier> bars; std::vector<Shared> shared; };
struct Copy { unsigned char* to; const unsigned char* from; bool is_read; int bytes = 16; unsigned char early[16] = {}; bool is_early = false; };
struct Fiber { ucontext_t context; std::vector<char> stack; int thread, rank; bool done = false; std::vector<std::vector<Copy>> copies; };
struct Message { u32 to, value, bar; };

static std::vector<Block> blocks;
static std::vector<Fiber> fibers;
static std::vector<Message> late;
static Fiber* self;
static ucontext_t scheduler;
static Meeting cluster_meeting;
static int cluster_number, num_threads, num_blocks;
static long arrivals;
static const char* failure;
static std::mt19937 rng(1);
static std::function<void()> body;

static void pause_() { swapcontext(&self->context, &scheduler); }
static void fail(const char* why) { failure = why; for (;;) pause_(); }
template <class F> static void meet(Meeting& m, int n, F together) {
  const u32 generation = m.generation;
  if (++m.arrived == n) { m.arrived = 0; together(); m.generation++; }
  else while (m.generation == generation) pause_();
}
static Block& mine() { return blocks[self->rank]; }
static Warp& my_warp() { return mine().warps[self->thread / 32]; }

#define DEV static
#define KERNEL static void
#define GRID_KERNEL static void
#define SHARED unsigned char* const smem = mine().memory.data();
#define THREAD (self->thread)
static int thread_here() { return self->thread; }
#define BLOCK (cluster_number * num_blocks + self->rank)
static int block_here() { return BLOCK; }
#define SYNC() meet(mine().meeting, num_threads, [] {})
template <int threads> static void sync_at(int id) { meet(mine().others[id], threads, [] {}); }
template <int threads> static void arrive_at(int id) {
  Meeting& m = mine().others[id];
  if (++m.arrived == threads) { m.arrived = 0; m.generation++; }
}

// --- clusters: an address is the block's number and the place in its memory
static u32 smem_of(const void* p) { return (u32)((unsigned char*)p - mine().memory.data()) | (u32)self->rank << 24; }
static unsigned char* at(u32 a, u32 bytes) {
  if ((a & 0xffffff) + bytes > blocks[a >> 24].memory.size()) fail("outside of shared memory");
  return &blocks[a >> 24].memory[a & 0xffffff];
}
static u32 cluster_rank() { return self->rank; }
static u32 map_to(u32 a, u32 rank) { return (a & 0xffffff) | rank << 24; }
static void cluster_sync() { meet(cluster_meeting, num_blocks * num_threads, [] {}); }

// --- barriers: the 8 bytes at the address hold a number
static Barrier& bar_at(u32 b) { u64 i; memcpy(&i, at(b, 8), 8); return blocks[b >> 24].bars.at(i - 1); }
static void bar_init(u32 b, u32 n) {
  auto& bars = blocks[b >> 24].bars;
  bars.push_back({(int)n, (int)n, 0, 0});
  const u64 i = bars.size();
  memcpy(at(b, 8), &i, 8);
}
static void bar_init_fence() {}
static void bar_check(Barrier& b) { if (b.pending == 0 && b.bytes == 0) { b.phase ^= 1; b.pending = b.count; } }
static void bar_expect(u32 b, u32 bytes) {
  Barrier& x = bar_at(b);
  x.bytes += bytes;
  if (x.pending-- <= 0) fail("too many arrivals");
  bar_check(x);
}
static void bar_wait(u32 b, u32 parity) { while (bar_at(b).phase == parity) pause_(); }
static u32 bits(float x) { u32 u; memcpy(&u, &x, 4); return u; }
static void send(u32 to, u32 v, u32 bar) { late.push_back({to, v, bar}); }
static void send2(u32 to, float x, float y, u32 bar) { send(to, bits(x), bar); send(to + 4, bits(y), bar); }
static u32 map_anew(u32 a, u32 rank) { return map_to(a, rank); }
static void deliver(size_t i) {
  const Message m = late[i];
  late[i] = late.back();
  late.pop_back();
  memcpy(at(m.to, 4), &m.value, 4);
  Barrier& b = bar_at(m.bar);
  b.bytes -= 4;
  bar_check(b);
}

// --- blocks that meet in the device's memory: what is shared is seen late and in any order; an arrival waits for what
// the block's threads shared before their last barrier, and for nothing else
static void share(u32* to, u32 value) { mine().shared.push_back({to, value, self->thread, mine().meeting.generation}); }
static void fetch2(const u32* from, u32& x, u32& y) { x = from[0]; y = from[1]; }
static void make_seen(Block& b, size_t i) {
  *b.shared[i].to = b.shared[i].value;
  b.shared.erase(b.shared.begin() + i);
}
static void fence() {
  Block& b = mine();
  for (size_t i = b.shared.size(); i--;)
    if (b.shared[i].thread == self->thread || b.shared[i].generation != b.meeting.generation) make_seen(b, i);
}
static void count(u32* counter) { ++*counter; ++arrivals; }
static void arrive(u32* counter) { fence(); count(counter); }
static u32 peek(const u32* counter) { return *(volatile const u32*)counter; }
static void wait_for(const u32* counter, u32 count) { while (*(volatile const u32*)counter < count) pause_(); }

// --- copies: they read, and write, when they start or when they are waited for
static std::minstd_rand early_or_late;
static void finish(const Copy& c) {
  if (c.is_read) memcpy(c.to, c.is_early ? c.early : c.from, c.bytes); else memset(c.to, 0, c.bytes);
}
static void start_copy(Copy c) {
  c.is_early = c.is_read && early_or_late() & 64;
  if (c.is_early) memcpy(c.early, c.from, c.bytes);
  if (early_or_late() & 192) self->copies.back().push_back(c); else finish(c);
}
static void copy16(u32 to, const void* from, bool is_read) { start_copy({at(to, 16), (const unsigned char*)from, is_read}); }
static void copy4(u32 to, const void* from) { start_copy({at(to, 4), (const unsigned char*)from, true, 4}); }
static void copies_commit() { self->copies.emplace_back(); }
template <int left> static void copies_wait() {
  while (self->copies.size() > left + 1) { // the last group is the open one
    for (auto& c : self->copies.front()) finish(c);
    self->copies.erase(self->copies.begin());
  }
}

// --- numbers
static float of_bf16(u16 v) { const u32 u = (u32)v << 16; float f; memcpy(&f, &u, 4); return f; }
static float of_f16(u16 v) { _Float16 h; memcpy(&h, &v, 2); return (float)h; }
static u32 to_bf16(float f) { u32 u = bits(f); return f != f ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16; }
static u32 to_f16(float f) { const _Float16 h = (_Float16)f; u16 v; memcpy(&v, &h, 2); return v; }
static u32 pack_bf16(float lo, float hi) { return to_bf16(lo) | to_bf16(hi) << 16; }
static u32 pack_f16(float lo, float hi) { return to_f16(lo) | to_f16(hi) << 16; }
static float clip(float x) { return x > 65504.f ? 65504.f : x < -65504.f ? -65504.f : x; }
static float exp2_(float x) { return exp2f(x); }
static float over(float x) { return 1.f / x; }

// --- products of tiles
#if F16
#define OPERAND of_f16
#else
#define OPERAND of_bf16
#endif
static void ldsm4t(u32 a, u32& x0, u32& x1, u32& x2, u32& x3) {
  Warp& w = my_warp();
  const int l = self->thread & 31;
  w.in[l][0] = a;
  meet(w.meeting, 32, [&] {
    for (int lane = 0; lane < 32; lane++)
      for (int m = 0; m < 4; m++) {
        u32 both = 0;
        for (int e = 0; e < 2; e++) {
          u16 v;
          memcpy(&v, at(w.in[m * 8 + 2 * (lane % 4) + e][0], 16) + 2 * (lane / 4), 2);
          both |= (u32)v << 16 * e;
        }
        w.out[lane][m] = both;
      }
  });
  x0 = w.out[l][0]; x1 = w.out[l][1]; x2 = w.out[l][2]; x3 = w.out[l][3];
}
static void mma(float c[4], const u32 a[4], u32 b0, u32 b1) {
  Warp& w = my_warp();
  const int l = self->thread & 31;
  for (int i = 0; i < 4; i++) w.in[l][i] = a[i], w.c[l][i] = c[i];
  w.in[l][4] = b0; w.in[l][5] = b1;
  meet(w.meeting, 32, [&] {
    float A[16][16], B[8][16];
    for (int n = 0; n < 32; n++)
      for (int e = 0; e < 2; e++) {
        const int g = n / 4, k = 2 * (n % 4) + e;
        A[g][k] = OPERAND(w.in[n][0] >> 16 * e); A[g + 8][k] = OPERAND(w.in[n][1] >> 16 * e);
        A[g][k + 8] = OPERAND(w.in[n][2] >> 16 * e); A[g + 8][k + 8] = OPERAND(w.in[n][3] >> 16 * e);
        B[g][k] = OPERAND(w.in[n][4] >> 16 * e); B[g][k + 8] = OPERAND(w.in[n][5] >> 16 * e);
      }
    for (int n = 0; n < 32; n++)
      for (int i = 0; i < 4; i++) {
        const float *x = A[n / 4 + 8 * (i / 2)], *y = B[2 * (n % 4) + i % 2];
        float s = 0;
        for (int j = 0; j < 16; j++) s += x[j] * y[j];
        w.c[n][i] += s;
      }
  });
  for (int i = 0; i < 4; i++) c[i] = w.c[l][i];
}

// --- between the threads of a warp
static u32 from_lane(u32 x, int lane) {
  Warp& w = my_warp();
  const int l = self->thread & 31;
  w.in[l][0] = x; w.in[l][1] = lane;
  meet(w.meeting, 32, [&] { for (int i = 0; i < 32; i++) w.out[i][0] = w.in[w.in[i][1] & 31][0]; });
  return w.out[l][0];
}
static u32 from_xor(u32 x, int mask) { return from_lane(x, (self->thread & 31) ^ mask); }
static void store_transposed(u32 a, std::vector<u32> x) {
  Warp& w = my_warp();
  const int l = self->thread & 31, n = x.size();
  w.in[l][0] = a;
  for (int m = 0; m < n; m++) w.in[l][1 + m] = x[m];
  meet(w.meeting, 32, [&] {
    for (int lane = 0; lane < 32; lane++)
      for (int m = 0; m < n; m++)
        for (int e = 0; e < 2; e++) {
          const u32 row = w.in[m * 8 + 2 * (lane % 4) + e][0];
          const u16 v = w.in[lane][1 + m] >> 16 * e;
          if (row & 15) fail("misaligned");
          memcpy(at(row, 16) + 2 * (lane / 4), &v, 2);
        }
  });
}
static void stsm1t(u32 a, u32 x) { store_transposed(a, {x}); }
static void stsm4t(u32 a, u32 x0, u32 x1, u32 x2, u32 x3) { store_transposed(a, {x0, x1, x2, x3}); }
static int bits_of(float x) { int i; memcpy(&i, &x, 4); return i; }
static float of_bits(u32 x) { float f; memcpy(&f, &x, 4); return f; }
static void raise(u32* to, u32 x) { *to = std::max(*to, x); }

// --- runs
static void entry() { body(); self->done = true; for (;;) pause_(); }
static long progress() {
  long sum = cluster_meeting.generation + arrivals;
  for (auto& b : blocks) { sum += b.meeting.generation + b.others[1].generation; for (auto& w : b.warps) sum += w.meeting.generation; }
  for (auto& x : fibers) sum += x.done;
  return sum;
}
static void start(int threads, int bytes) {
  num_threads = threads;
  blocks.assign(num_blocks, {});
  fibers.clear(); fibers.resize(num_blocks * threads);
  late.clear();
  cluster_meeting = {};
  for (auto& b : blocks) { b.memory.assign(bytes, 0xff); b.warps.resize(threads / 32); } // NaN
  for (int i = 0; i < num_blocks * threads; i++) {
    Fiber& x = fibers[i];
    x.thread = i % threads; x.rank = i / threads; x.copies.resize(1);
    x.stack.resize(24576);
    getcontext(&x.context);
    x.context.uc_stack.ss_sp = x.stack.data();
    x.context.uc_stack.ss_size = x.stack.size();
    x.context.uc_link = &scheduler;
    makecontext(&x.context, entry, 0);
  }
}
// Runs a cluster, or a group of blocks; what went wrong, or null.
static const char* run_cluster(int number, int threads, int bytes, std::function<void()> run) {
  cluster_number = number; body = run; failure = nullptr;
  start(threads, bytes);
  std::vector<int> order(num_blocks * threads / 32), asleep(num_blocks * threads / 32);
  for (size_t i = 0; i < order.size(); i++) order[i] = i;
  for (int idle = 0;;) {
    std::shuffle(order.begin(), order.end(), rng);
    const long before = progress();
    const size_t sent = late.size();
    for (int w : order) {
      if (asleep[w] == 0 && rng() % 400 == 0) asleep[w] = rng() % 60; // far behind the others
      if (asleep[w] > 0) asleep[w]--;
      else if (rng() % 3)
        for (int i = 32 * w; i < 32 * w + 32; i++)
          if (!fibers[i].done) { self = &fibers[i]; swapcontext(&scheduler, &self->context); if (failure) return failure; }
    }
    for (auto& b : blocks) for (size_t n = b.shared.size() / 8; n--;) make_seen(b, rng() % b.shared.size());
    if (std::all_of(fibers.begin(), fibers.end(), [](Fiber& x) { return x.done; })) {
      for (auto& b : blocks) while (!b.shared.empty()) make_seen(b, 0);
      return late.empty() ? nullptr : "bytes in flight at the end";
    }
    const bool moved = progress() != before || late.size() != sent || !late.empty();
    for (size_t n = late.size() / 2 + !late.empty(); n--;) deliver(rng() % late.size());
    idle = moved ? 0 : idle + 1;
    if (idle > 200) return "deadlock";
  }
}
template <class... A, size_t... I> static void call(void (*kernel)(A...), void** arrays, std::index_sequence<I...>) { kernel((A)arrays[I]...); }
template <class... A> static const char* run_all(void (*kernel)(A...), void** arrays, int blocks_, int group, int threads, int bytes, int seed) {
  rng.seed(seed);
  early_or_late.seed(seed + 1);
  num_blocks = group;
  for (int number = 0; number < blocks_ / group; number++) {
    const char* failed = run_cluster(number, threads, bytes, [&] { call(kernel, arrays, std::index_sequence_for<A...>()); });
    if (failed) return failed;
  }
  return nullptr;
}
