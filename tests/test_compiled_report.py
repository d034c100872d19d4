"""What is read from compiled programs, against what is counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import compiled_report as report

PROGRAM = """HloModule jit_f, entry_computation_layout={(f32[4,8]{1,0})->f32[4,8]{1,0}}

%fused_computation (p.0: f32[4,8], p.1: bf16[8]) -> f32[4,8] {
  %p.0 = f32[4,8]{1,0} parameter(0)
  %p.1 = bf16[8]{0} parameter(1)
  ROOT %add.9 = f32[4,8]{1,0} add(%p.0, %p.0)
}

%command_buffer (p.2: f32[4,8]) -> f32[4,8] {
  %p.2 = f32[4,8]{1,0} parameter(0)
  ROOT %copy.1 = f32[4,8]{1,0} copy(%p.2)
}

ENTRY %main.1 (x.1: f32[4,8], w.1: bf16[8]) -> (f32[4,8], s32[3]) {
  %x.1 = f32[4,8]{1,0} parameter(0), metadata={op_name="x"}
  %w.1 = bf16[8]{0} parameter(1)
  %fusion.1 = f32[4,8]{1,0} fusion(%x.1, %w.1), kind=kLoop, calls=%fused_computation
  %dot.1 = f32[4,8]{1,0} fusion(%fusion.1, %x.1), kind=kCustom, calls=%gemm, \
backend_config={"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion"}}
  %kernel.1 = (f32[4,8]{1,0}, /*index=1*/s32[3]{0:T(128)}) custom-call(%dot.1, %w.1), \
custom_call_target="__gpu$xla.gpu.triton", metadata={op_name="jit(f)/pallas_call"}, \
backend_config={grid_x = 4 : i32, ir = "%x", name = "flat_kernel", num_stages = 3 : i32}
  %first.1 = f32[4,8]{1,0} get-tuple-element(%kernel.1), index=0
  %second.1 = s32[3]{0} get-tuple-element(%kernel.1), index=1
  %bitcast.1 = f32[32]{0} bitcast(%first.1)
  %call.1 = f32[4,8]{1,0} call(%first.1), to_apply=%command_buffer
  %negate.1 = f32[32]{0} negate(f32[32]{0:T(8)} %bitcast.1), control-predecessors={%x.1}
  ROOT %tuple.1 = (f32[4,8]{1,0}, s32[3]{0}) tuple(%call.1, %second.1)
}
"""

LOOP = """
ENTRY main {
  %x = f32[2]{0} parameter(0)
  %y = f32[2]{0} all-reduce(%x), to_apply=%add
  %z = f32[2]{0} all-reduce-start(%y), to_apply=%add
  ROOT %while.1 = f32[2]{0} while(%z), condition=%less, body=%step
}
"""


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("f32[4,8]{1,0}", 128),
        ("bf16[3]", 6),
        ("pred[5]", 5),
        ("s32[]", 4),
        ("f8e4m3fn[7]", 7),
        ("s4[3]", 2),
        ("c64[2]", 16),
        ("f32[0,9]", 0),
        ("token[]", 0),
        ("(f32[2,3]{1,0:T(8,128)}, (u8[2], pred[]))", 27),
    ],
)
def test_bytes_of_hand_counted_types(text, size):
    assert report.bytes_of(text) == size


def test_totals_of_a_hand_counted_program():
    x, w, counts = 4 * 8 * 4, 8 * 2, 3 * 4
    assert report.totals(report.instructions(PROGRAM)) == {
        "product": (1, 3 * x),
        "pallas kernel": (1, 2 * x + w + counts),
        "loop fusion": (1, 2 * x + w),
        "copy": (1, 2 * x),
        "negate": (1, 2 * x),
    }
    assert report.total_bytes(PROGRAM) == 11 * x + 2 * w + counts


def test_instructions_know_kernels_and_their_arrays():
    _, _, kernel, *_ = report.instructions(PROGRAM)
    assert kernel.kernel == "flat_kernel"
    assert kernel.origin == "jit(f)/pallas_call"
    assert kernel.arrays == ["f32[4,8]", "bf16[8]", "f32[4,8]", "s32[3]"]


def test_loops_and_all_reduces_are_counted():
    assert report.count_loops(LOOP) == 1
    assert report.count_all_reduces(LOOP) == 2
    assert report.count_loops(PROGRAM) == report.count_all_reduces(PROGRAM) == 0


def test_total_bytes_of_a_loop_are_unknown():
    assert report.total_bytes(LOOP) is None


def test_total_bytes_of_a_compiled_product():
    x, y = jnp.ones((16, 32)), jnp.ones((32, 64))
    compiled = jax.jit(jnp.matmul).lower(x, y).compile()
    expected = 4 * (16 * 32 + 32 * 64 + 16 * 64)
    assert report.total_bytes(compiled.as_text()) == expected


def test_largest_lists_what_is_above_the_limit_by_size():
    text = report.largest(report.instructions(PROGRAM), above=272)
    names = [line.split()[0] for line in text.splitlines()]
    assert names == ["instruction", "dot.1", "kernel.1"]
    assert "f32[4,8], s32[3]" in text


def test_vector_memory_is_what_a_tpu_kernel_reserves():
    (kernel,) = report.instructions("""
ENTRY main {
  %x = f32[8]{0} parameter(0)
  ROOT %gru.1 = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call", \
backend_config={"scoped_memory_configs":[{"memory_space":"1","offset":"0","size":"4096"}]}
}
""")
    assert (kernel.kind, kernel.vector_memory) == (report.TPU_KERNEL, 4096)
    assert all(each.vector_memory == 0 for each in report.instructions(PROGRAM))
