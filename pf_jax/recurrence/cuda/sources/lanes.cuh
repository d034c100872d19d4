// More machine instructions, which a rollout needs; tests/emulate.h has the same functions for a CPU.
#pragma once
#ifndef PF_EMULATE
// An address in another block's memory, formed where it is used: the compiler would keep it in a register.
DEV u32 map_anew(u32 a, u32 rank) {
  u32 r;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(rank));
  return r;
}

// --- between the threads of a warp
DEV u32 from_lane(u32 x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
DEV u32 from_xor(u32 x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }

// --- tiles of 8x8 numbers of 16 bits, transposed: lanes 8 i to 8 i + 7 have the addresses of the rows of tile i
DEV void stsm1t(u32 a, u32 x) { asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(a), "r"(x) : "memory"); }
DEV void stsm4t(u32 a, u32 x0, u32 x1, u32 x2, u32 x3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(a), "r"(x0), "r"(x1), "r"(x2), "r"(x3)
               : "memory");
}

// --- a copy of 4 bytes into shared memory, as copy16
DEV void copy4(u32 to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(__cvta_generic_to_global(from)) : "memory");
}

DEV int bits_of(float x) { return __float_as_int(x); }
DEV float of_bits(u32 x) { return __uint_as_float(x); }
// Raises a number in shared memory, which other threads raise as well.
DEV void raise(u32* to, u32 x) { atomicMax(to, x); }
#endif

// Integers in the order of the numbers, NaN above all.
DEV int ordered(float x) {
  const int i = bits_of(x);
  return i ^ (i >> 31 & 0x7fffffff);
}

// Sizes of numbers as integers in the same order, infinity and NaN above all; the powers of two that bring a number of
// that size to 2^14 to 2^15, and back.
DEV u32 size_of(float x) { return (u32)bits_of(x) & 0x7fffffff; }
DEV u32 larger(u32 x, u32 y) { return x > y ? x : y; }
DEV u32 exponent_to_half(u32 size) {
  const u32 exponent = 268 - (size >> 23);
  return exponent < 253 ? exponent : 253;
}
DEV float to_half(u32 size) { return of_bits(exponent_to_half(size) << 23); }
DEV float of_half(u32 size) { return of_bits((254 - exponent_to_half(size)) << 23); }
