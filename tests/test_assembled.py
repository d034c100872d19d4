"""What is read from assembled kernels, on short texts in the form of real ones."""

import subprocess

import pytest

from benchmarks import assembled, ptx

LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'flat_kernel' for 'sm_90a'
ptxas info    : Function properties for flat_kernel
    48 bytes stack frame, 40 bytes spill stores, 56 bytes spill loads
ptxas info    : Used 166 registers, used 1 barriers
ptxas info    : Compile time = 74.715 ms
"""

SEQUENCE = """
001: kCustomKernel [source  | next=003 (1)  ] loop_add_fusion_5 grid: [1, 1, 1] threads: \
[1, 1, 1]  shared_memory: 0 bytes
002: kCopy         [source  | next=010 (1)  ] kCopy
003: kCustomKernel [prev=001 (6)  | sink ] flat_kernel__1 grid: [16, 4, 2] threads: \
[128, 1, 1]  shared_memory: 86016 bytes
"""

PTX = """
.visible .entry flat_kernel(
	.param .u64 .ptr .align 256 flat_kernel_param_0,
)
{
	ld.param::entry.b64 	%rd1, [flat_kernel_param_0];
	cvta.to.global.u64 	%rd2, %rd1;
	ld.param.u64 	%rd3, [flat_kernel_param_1];
	ld.param.u64 	%rd4, [flat_kernel_param_2];
	ld.param.u64 	%rd5, [flat_kernel_param_3];
	mul.wide.s32 	%rd6, %r1, 4;
	add.s64 	%rd7, %rd2, %rd6;
$L__BB0_1:
	@%p1 ld.global.v4.b32 { %r2, %r3 }, [ %rd7 + 0 ];
	setp.ne.s32 	%p2, %r4, 8;
	@%p2 bra 	$L__BB0_1;
	mov.b64 	%rd8, %rd3;
$L__BB0_2:
	ld.global.b32 { %r5 }, [ %rd8 + 0 ];
	add.s64 	%rd8, %rd8, 16;
	selp.b64 	%rd9, %rd8, %rd4, %p3;
$L__BB0_3:
	cp.async.cg.shared.global [ %r6 + 0 ], [ %rd9 + 0 ], 0x10, %r7;
	@%p4 bra 	$L__BB0_3;
	ld.global.b64 	%rd10, [%rd5];
	ld.global.b32 { %r8 }, [ %rd10 + 0 ];
	@%p5 atom.global.gpu.acq_rel.add.u32 %r9, [ %rd5 + 0 ], %r10;
	@%p6 bra.uni 	$L__BB0_2;
	ld.global.b32 { %r8 }, [ %rd2 + 0 ];
	ret;
}
"""


def test_read_log_of_a_kernel_that_spills():
    assert assembled.read_log(LOG) == (166, 40 + 56, 48)


def test_read_launches_of_a_list():
    assert assembled.read_launches(SEQUENCE) == [
        ("loop_add_fusion_5", (1, 1, 0)),
        ("flat_kernel__1", (16 * 4 * 2, 128, 86016)),
    ]


def test_loads_over_time_are_those_of_the_loop_in_which_programs_meet():
    # Parameter 0 is read before that loop, in one of its own, and behind it. What is read
    # at an address that was itself loaded belongs to no parameter.
    assert ptx.loads_over_time(PTX) == {1: 2, 2: 1, 3: 1}


def test_loops_are_nested():
    lines = PTX.splitlines()
    first, inner, outer = ptx.loops(lines)
    assert first[-1] < outer[0] < inner[0] < inner[-1] < outer[-1]
    assert ptx.loops_over_time(lines) == [outer]


@pytest.mark.parametrize("status", [0, 3])
def test_record_assembler_keeps_what_an_assembler_does(tmp_path, status):
    real = tmp_path / "cuda with spaces" / "bin" / "ptxas"
    real.parent.mkdir(parents=True)
    real.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo 13 && exit\n'
        f'echo "$@" >&2; echo code > "$3"; exit {status}\n'
    )
    real.chmod(0o755)
    options = assembled.record_assembler(tmp_path / "kept", real.parent.parent)
    recorder = f"{options['xla_gpu_cuda_data_dir']}/bin/ptxas"
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_text(PTX)
    version = subprocess.run([recorder, "--version"], capture_output=True, text=True)
    assert version.stdout == "13\n"
    command = [recorder, str(source), "-o", str(output), "-arch=sm_90a"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == status
    assert ended.stderr == f"{source} -o {output} -arch=sm_90a --verbose\n"
    kept = tmp_path / "kept"
    assert (kept / "flat_kernel.ptx").read_text() == PTX
    assert (kept / "flat_kernel.log").read_text() == ended.stderr
    assert (kept / "flat_kernel.cubin").exists() == (status == 0)
