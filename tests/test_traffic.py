"""Bytes of compiled programs, against bytes counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.traffic import entry_bytes, total_bytes, type_bytes

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
  %constant.1 = f32[] constant(2)
  %fusion.1 = f32[4,8]{1,0} fusion(%x.1, %w.1), kind=kLoop, calls=%fused_computation
  %kernel.1 = (f32[4,8]{1,0}, /*index=1*/s32[3]{0:T(128)}) custom-call(%fusion.1, %w.1), \
custom_call_target="__gpu$xla.gpu.triton", backend_config={name = "f(%x)"}
  %get-tuple-element.1 = f32[4,8]{1,0} get-tuple-element(%kernel.1), index=0
  %get-tuple-element.2 = s32[3]{0} get-tuple-element(%kernel.1), index=1
  %bitcast.1 = f32[32]{0} bitcast(%get-tuple-element.1)
  %call.1 = f32[4,8]{1,0} call(%get-tuple-element.1), to_apply=%command_buffer
  %negate.1 = f32[32]{0} negate(f32[32]{0} %bitcast.1), metadata={op_name="jit(f)/neg"}
  ROOT %tuple.1 = (f32[4,8]{1,0}, s32[3]{0}) tuple(%call.1, %get-tuple-element.2)
}
"""

LOOP = """
ENTRY main {
  %x = f32[2]{0} parameter(0)
  %y = f32[2]{0} negate(%x)
  ROOT %while.1 = f32[2]{0} while(%y), condition=%less, body=%step
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
        ("c64[2]", 16),
        ("f32[0,9]", 0),
        ("token[]", 0),
        ("(f32[2,3]{1,0:T(8,128)}, (u8[2], pred[]))", 27),
    ],
)
def test_type_bytes_of_hand_counted_types(text, size):
    assert type_bytes(text) == size


def test_entry_bytes_of_a_hand_counted_program():
    x, w, counts = 4 * 8 * 4, 8 * 2, 3 * 4
    assert entry_bytes(PROGRAM) == {
        "fusion kLoop": x + w + x,
        "__gpu$xla.gpu.triton": x + w + x + counts,
        "copy": x + x,
        "negate": x + x,
    }
    assert total_bytes(PROGRAM) == 8 * x + 2 * w + counts


def test_total_bytes_of_a_loop_are_unknown():
    assert entry_bytes(LOOP) == {"negate": 16, "while": 16}
    assert total_bytes(LOOP) is None


def test_total_bytes_of_a_compiled_product():
    x, y = jnp.ones((16, 32)), jnp.ones((32, 64))
    compiled = jax.jit(jnp.matmul).lower(x, y).compile()
    assert total_bytes(compiled.as_text()) == 4 * (16 * 32 + 32 * 64 + 16 * 64)


def test_total_bytes_of_a_compiled_scan_are_unknown():
    def run(x):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, length=1000)[0]

    compiled = jax.jit(run).lower(jnp.ones((8, 8))).compile()
    assert total_bytes(compiled.as_text()) is None
