// Where a block works, and how it reads and writes arrays over time.
//
// T steps, N rows, S directions, H units and NT tiles of 8 rows of a cluster are constants of a compilation. The
// compiler is given longer names: its own headers, which come first, have templates over a T.
// A cluster of GROUP blocks owns 8 NT rows of a direction for good, and a block 64 of the hidden columns. Without clusters
// it is a group of blocks, and 32 columns.
// MODELS that have nothing in common run in one launch: the blocks of one follow those of another, as do their arrays.
#pragma once
#define T STEPS
#define N BATCH
#define S SIDES
#define H UNITS
#define NT TILES
#define HC (H / GROUP)                   // hidden columns of a block, of GROUP that own the same rows
#define MG (HC / 16)                     // warps along them
#define ROWS (8 * NT)                    // rows of a cluster
#define CLUSTERS ((N + ROWS - 1) / ROWS) // clusters of a direction
#ifndef MODEL_BLOCKS
#define MODEL_BLOCKS (GROUP * S * CLUSTERS) // blocks of a model
#endif
#define MODEL (MODELS == 1 ? 0 : BLOCK / MODEL_BLOCKS)
#define OWN_BLOCK (MODELS == 1 ? BLOCK : BLOCK % MODEL_BLOCKS)
#define DIRECTION (OWN_BLOCK / GROUP / CLUSTERS)
#define FIRST_ROW (OWN_BLOCK / GROUP % CLUSTERS * ROWS)
// Moves an array of all models to this block's model, of which it has `size` numbers. `size` has no parentheses here: its
// factors are multiplied from left to right by a number of 64 bits, so that no product overflows.
#define OF_MODEL(array, size) array += (size_t)MODEL * size;
// Step in the order of time that is a direction's step s: the second runs backward.
#define IN_TIME(s) (direction ? T - 1 - (s) : (s))
// A line is a row's columns of one array in shared memory, 16 bits each. The 16 bytes more put the lines that a warp
// reads or writes at once into different banks.
#define LINE (2 * HC + 16)
// A thread's numbers of a tile's carry, of one column and two rows, where a cluster's kernel keeps them: AT_HELD. The place
// is asked for anew, as registers are scarce.
#define OWN_CARRY(n) ((float2*)(smem + AT_HELD))[(n)*4 * HC + thread_here()]
#define PIECES (HC / 8)                  // pieces of 16 bytes of a line
static_assert(H % 128 == 0 && HC % 16 == 0 && H * HC <= 512 * 64, "a block's columns are tiles of 16, its weights fit its registers");
