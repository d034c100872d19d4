// The few machine instructions the kernels need; everything else is plain C++.
// tests/emulate.h has the same functions for a CPU.
#pragma once
#ifndef PF_EMULATE
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#define DEV __device__ __forceinline__
#define KERNEL extern "C" __global__ void __cluster_dims__(GROUP, 1, 1) __launch_bounds__(THREADS, 1)
#define GRID_KERNEL extern "C" __global__ void __launch_bounds__(THREADS, 1)
#define SHARED extern __shared__ __align__(128) unsigned char smem[];
#define THREAD ((int)threadIdx.x)
// Asked for anew where it stands: what is computed of it then takes no registers over the whole loop.
DEV int thread_here() {
  int r;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(r));
  return r;
}
#define BLOCK ((int)blockIdx.x)
DEV int block_here() { // as thread_here
  int r;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(r));
  return r;
}
#define SYNC() __syncthreads()
// Barrier `id` of all threads of a block, for one warp alone: the others go on.
template <int threads> DEV void sync_at(int id) { asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(threads) : "memory"); }
template <int threads> DEV void arrive_at(int id) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(threads) : "memory"); }

// --- clusters: blocks that reach one another's shared memory
DEV u32 smem_of(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DEV u32 cluster_rank() {
  u32 r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
DEV u32 map_to(u32 a, u32 rank) {
  u32 r;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(rank));
  return r;
}
DEV void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// --- barriers that count the bytes which arrive
DEV void bar_init(u32 b, u32 n) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(b), "r"(n) : "memory"); }
DEV void bar_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEV void bar_expect(u32 b, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"(bytes) : "memory");
}
DEV void bar_wait(u32 b, u32 parity) {
  asm volatile(
      "{\n.reg .pred p;\nLW: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra LD;\nbra LW;\nLD:\n}" ::"r"(b),
      "r"(parity)
      : "memory");
}
DEV void send(u32 to, u32 v, u32 bar) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to), "r"(v), "r"(bar)
               : "memory");
}
DEV void send2(u32 to, float x, float y, u32 bar) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1,%2}, [%3];" ::"r"(to),
               "r"(__float_as_uint(x)), "r"(__float_as_uint(y)), "r"(bar)
               : "memory");
}

// --- blocks that meet in the device's memory: what a block has shared before a barrier of its threads, all that see its
// arrival can read, by copy16 and fetch2: they pass by the cache of a multiprocessor, which may hold what stood there before
DEV void share(u32* to, u32 v) { asm volatile("st.global.cg.u32 [%0], %1;" ::"l"(to), "r"(v) : "memory"); }
DEV void fetch2(const u32* from, u32& x, u32& y) {
  asm volatile("ld.global.cg.v2.u32 {%0,%1}, [%2];" : "=r"(x), "=r"(y) : "l"(from) : "memory");
}
DEV void arrive(u32* counter) { asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory"); }
DEV void wait_for(const u32* counter, u32 arrivals) {
  u32 seen;
  do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
  while (seen < arrivals);
}

// The parts of both: what the thread knows of before `fence`, others know of that see it count behind it; and what they
// knew of before they counted, it can read when it has seen the number before it.
DEV u32 peek(const u32* counter) {
  u32 seen;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
  return seen;
}
DEV void fence() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
DEV void count(u32* counter) { asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory"); }

// --- copies of 16 bytes into shared memory, on their way while the thread goes on; zeros where nothing is read
DEV void copy16(u32 to, const void* from, bool is_read) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
               "r"(is_read ? 16 : 0)
               : "memory");
}
DEV void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all groups of the thread's copies but the last `left`.
template <int left> DEV void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory"); }

// --- products of tiles, 16x16 by 16x8
DEV void ldsm4t(u32 a, u32& x0, u32& x1, u32& x2, u32& x3) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x0), "=r"(x1), "=r"(x2), "=r"(x3)
               : "r"(a)
               : "memory");
}
#if F16
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#else
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#endif
DEV void mma(float c[4], const u32 a[4], u32 b0, u32 b1) {
  asm volatile(MMA " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// --- numbers
DEV float exp2_(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEV float over(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// Half precision holds numbers up to 65,504: clipped to it, NaN stays.
DEV float clip(float x) {
  float y;
  asm("{\n.reg .f32 c;\nmin.NaN.f32 c, %1, 0f477FE000;\nmax.NaN.f32 %0, c, 0fC77FE000;\n}" : "=f"(y) : "f"(x));
  return y;
}
DEV u32 pack_bf16(float lo, float hi) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
DEV u32 pack_f16(float lo, float hi) {
  u32 r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
DEV float of_bf16(u16 h) { return __uint_as_float((u32)h << 16); }
DEV float of_f16(u16 h) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(h));
  return y;
}
#endif

DEV float2 pair_of(float x, float y) {
  float2 both;
  both.x = x;
  both.y = y;
  return both;
}
DEV float sigmoid(float x) { return over(1.f + exp2_(-1.4426950408889634f * x)); }
DEV float tanh_(float x) { return 1.f - 2.f * over(1.f + exp2_(2.8853900817779268f * x)); }
#if F16
#define pack_operand pack_f16
#define of_operand of_f16
#else
#define pack_operand pack_bf16
#define of_operand of_bf16
#endif
