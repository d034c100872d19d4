"""Scaling on paper: the model by hand, and what compiled updates sum over devices."""

import json
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

import pf_jax
from benchmarks import (
    bench_scaling,
    compiled_report,
    forms,
    links,
    planned,
    scaling_plan,
)
from benchmarks.absent_devices import Target, UnavailableError, find_target
from benchmarks.forms import Shape, multiply_adds
from benchmarks.links import Link
from benchmarks.planned import batch_shapes
from benchmarks.products import count_multiply_adds
from configs import default
from pf_jax.affine import Affine
from pf_jax.convolutional import convolution
from pf_jax.data.pixels import Pixels
from pf_jax.data.vocabulary import Vocabulary
from pf_jax.experiment.build import state_shapes, step_function

RESULTS = pathlib.Path(scaling_plan.__file__).parent / "results" / "scaling-plan.json"
H100, V5E, _ = links.DEVICES


def test_ring_seconds_by_hand():
    # Six sends of 250 bytes at 100 a second, and six hops of half a second.
    assert links.ring_seconds(1000, 4, Link("slow", 100.0, 0.5)) == 15 + 3


def test_all_reduce_seconds_of_two_rings_by_hand():
    path = [(4, Link("fast", 100.0, 0.5)), (2, Link("slow", 10.0, 2.0))]
    # The second ring has a quarter of the bytes: two sends of 125, and two hops.
    assert links.all_reduce_seconds(1000, path) == 15 + 3 + 25 + 4


def test_all_reduce_seconds_of_rings_in_turn_are_those_of_one_ring_but_for_hops():
    link = Link("any", 100.0, 0.0)
    in_turn = links.all_reduce_seconds(1000, [(4, link), (8, link), (2, link)])
    assert in_turn == pytest.approx(links.ring_seconds(1000, 64, link))


@pytest.mark.parametrize(
    ("device", "count", "sizes"),
    [
        (H100, 8, ["8 NVLink 4"]),
        (H100, 64, ["8 NVLink 4", "8 InfiniBand NDR"]),
        (H100, 1024, ["8 NVLink 4", "128 InfiniBand NDR"]),
        (V5E, 1, []),
        (V5E, 8, ["2 ICI", "4 ICI"]),
        (V5E, 64, ["8 ICI", "8 ICI"]),
        (V5E, 1024, ["16 ICI", "16 ICI", "4 DCN"]),
    ],
)
def test_rings_of_devices(device, count, sizes):
    found = links.rings(device, count)
    assert [f"{size} {link.name}" for size, link in found] == sizes


def test_rings_refuse_numbers_that_are_no_power_of_2():
    with pytest.raises(ValueError, match="6 devices: must be a power of 2"):
        links.rings(H100, 6)


def test_count_multiply_adds_of_hand_counted_programs():
    x, y = jnp.ones((4, 3)), jnp.ones((3, 5))
    assert count_multiply_adds(jax.make_jaxpr(jnp.matmul)(x, y)) == 4 * 3 * 5

    def loop(x, weights):
        return lax.scan(lambda x, _: (jnp.tanh(x @ weights), None), x, length=7)

    assert count_multiply_adds(jax.make_jaxpr(loop)(x, jnp.ones((3, 3)))) == 7 * 4 * 9

    def branches(x, y):
        return lax.cond(x[0, 0] > 0, lambda: (x @ y)[:2], lambda: x[:2] @ y)

    assert count_multiply_adds(jax.make_jaxpr(branches)(x, y)) == 4 * 3 * 5
    with pytest.raises(ValueError, match="a loop of unknown length has products"):
        until = jax.make_jaxpr(
            lambda x, w: lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ w, x)
        )
        count_multiply_adds(until(x, jnp.ones((3, 3))))


def test_count_multiply_adds_of_a_convolution_and_its_gradients():
    params = Affine(jnp.ones((3, 3, 4, 6)), jnp.ones(6))
    x = jnp.ones((8, 10, 3, 4))
    forward = 4 * 5 * 3 * 9 * 4 * 6
    assert count_multiply_adds(jax.make_jaxpr(convolution)(params, x)) == forward

    def loss(params, x):
        return convolution(params, x).sum()

    gradients = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(params, x)
    biases = 4 * 5 * 3 * 6  # summed by a product with ones
    assert count_multiply_adds(gradients) == 3 * forward + biases


def test_count_multiply_adds_of_a_joint_step_is_the_floor_of_its_shape():
    shape = Shape(batch=4, steps=6, hidden=16, vocab=5, disc=8, mlp=7)
    state = jax.eval_shape(lambda: forms.train_state(shape))
    tokens = jax.ShapeDtypeStruct((shape.steps, shape.batch), jnp.int32)
    batch = pf_jax.Batch(tokens, tokens)
    key = jax.eval_shape(lambda: jax.random.key(0))
    found = count_multiply_adds(jax.make_jaxpr(pf_jax.joint_step)(state, batch, key))

    rows, (_, _, hidden, vocab, disc, mlp) = shape.batch * shape.steps, shape
    # The teacher-forced behavior has no gradient.
    expected = multiply_adds(shape) - rows * 2 * 3 * disc * (hidden + vocab)
    # The table of tokens and its gradients, and the readouts that choose samples.
    expected += 3 * vocab * 64 * 3 * hidden + rows * hidden * vocab
    # Biases' gradients are products with ones.
    expected += 2 * rows * (4 * hidden + vocab + 2 * 4 * disc + 3 * mlp + 1)
    assert found == expected


LOOP = """
%body (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  ROOT %y = f32[2]{0} all-reduce(%x), to_apply=%add
}

ENTRY main {
  %x = f32[2]{0} parameter(0)
  %z = f32[2]{0} all-reduce(%x), to_apply=%add
  ROOT %while.1 = f32[2]{0} while(%z), condition=%less, body=%body
}
"""


def test_all_reduced_bytes_refuse_a_loop_that_has_some():
    with pytest.raises(ValueError, match="a loop or a branch"):
        compiled_report.all_reduced_bytes(LOOP)


def test_all_reduced_bytes_of_a_hand_counted_program(on_eight_cpus):
    mesh = jax.make_mesh((8,), ("devices",))
    rows, everywhere = PartitionSpec("devices"), PartitionSpec()

    def sums(x):
        first = lax.psum(x.sum(axis=0), "devices")
        # The second sum needs the first, and so is one of its own.
        return first, lax.psum(jnp.int32(x[0] @ first > 0), "devices")

    mapped = jax.shard_map(sums, mesh=mesh, in_specs=rows, out_specs=everywhere)
    sharding = NamedSharding(mesh, rows)
    x = jax.ShapeDtypeStruct((16, 5), jnp.float32, sharding=sharding)
    compiled = jax.jit(mapped).lower(x).compile()
    assert compiled_report.all_reduced_bytes(compiled.as_text()) == [4 * 5, 4]


@pytest.fixture(scope="module")
def small():
    config = default.get_config()
    config.generator.hidden_size, config.generator.embedding_size = 16, 6
    config.discriminator.hidden_size, config.discriminator.mlp_size = 8, 7
    config.train.sequence_length, config.train.batch_size = 5, 8
    return planned.plan_experiment(config, Vocabulary.from_text("abcd"))


def summed_bytes(experiment):
    """Bytes of the gate's count and of the metrics, equal weights of which are one."""
    step, batch = step_function(experiment.config, 0), batch_shapes(experiment, 8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    _, metrics = jax.eval_shape(step, state_shapes(experiment), batch, key)
    weights = {"nll": "steps", "all others": 1.0}
    return 4 + 4 * (len(metrics) + len(weights))


@pytest.mark.slow
def test_an_update_sums_its_gradients_counts_and_metrics(small, on_eight_cpus):
    target = Target("cpu", "cpu", tuple(jax.devices("cpu")))
    program = planned.compile_program("small", small, target)
    # Embedding, GRU of 16 units, readout; a GRU of 8 in each direction, layers of 7.
    generator = 5 * 6 + 3 * 16 * (6 + 16 + 1) + 16 + (16 + 1) * 5
    discriminator = 2 * (3 * 8 * (21 + 8 + 1) + 8) + 17 * 7 + 2 * 8 * 7 + 8
    assert program.gradient_bytes == 4 * (generator + discriminator)
    sizes = program.all_reduced_bytes
    assert sizes[0] == 4 and len(sizes) <= 3
    assert sum(sizes) == program.gradient_bytes + summed_bytes(small)


@pytest.mark.device
def test_an_update_for_a_pod_sums_as_much(small):
    program = planned.compile_program("small", small, find_target("v5e:8x8"))
    assert program.num_devices == 64
    total = sum(program.all_reduced_bytes)
    assert total == program.gradient_bytes + summed_bytes(small)


def test_plan_rows_are_strong_where_the_batch_divides():
    program = planned.Program("any", "cpu", 8, 4000, [4, 4000])
    rows = scaling_plan.plan_rows(program, 64, lambda rows: rows * 10**9)
    points = {(r.device, r.scaling, r.num_devices): r for r in rows}
    found = [key[1:] for key in points if key[0] == "H100"]
    assert found == [
        *(("weak", 8), ("weak", 64), ("weak", 1024)),
        *(("strong", 8), ("strong", 64)),
    ]
    weak, strong = points["H100", "weak", 64], points["H100", "strong", 64]
    assert (weak.rows, strong.rows) == (64, 1)
    assert weak.compute_seconds == pytest.approx(2 * 64e9 / 989e12)
    # In each all-reduce 14 hops over NVLink, 14 over InfiniBand.
    assert weak.latency_seconds == pytest.approx(2 * 14 * (1.9e-6 + 4e-6))
    sent = 4004 * (2 * 7 / 8) * (1 / 450e9 + 1 / 8 / 50e9)
    assert weak.wait_seconds == pytest.approx(weak.latency_seconds + sent)
    assert strong.share == pytest.approx(
        weak.wait_seconds / (weak.wait_seconds + weak.compute_seconds / 64)
    )


@pytest.mark.slow
def test_bench_scaling_plans_and_reports_what_it_cannot_compile(
    tmp_path, monkeypatch, capsys
):
    def no_target(name):
        raise UnavailableError("libtpu is missing: install it")

    for name in ("JAX_PLATFORMS", "XLA_FLAGS"):
        monkeypatch.setenv(name, "")  # so that they are as before in the end
    digits = {"seq_digits": lambda: Pixels(8, 8)}
    monkeypatch.setattr(planned, "CONFIGURATIONS", digits)
    monkeypatch.setattr(planned, "find_target", no_target)
    path = tmp_path / "plan.json"
    bench_scaling.main(["--plan", "--json", str(path)])
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == (
        "The rows of a pod, v5e:8x8, are left out: libtpu is missing: install it."
    )
    report = json.loads(path.read_text())
    assert [each["num_devices"] for each in report["programs"]] == [8]
    for row in report["rows"]:
        share = row["wait_seconds"] / (row["wait_seconds"] + row["compute_seconds"])
        assert row["share"] == pytest.approx(share)
        assert f"{100 * row['share']:.1f} %" in printed


def test_bench_scaling_refuses_a_plot_of_a_plan(capsys):
    with pytest.raises(SystemExit) as stopped:
        bench_scaling.main(["--plan", "--plot=plan.png"])
    assert stopped.value.code == 2
    assert "--plot: has no effect with --plan: leave it out" in capsys.readouterr().err


def test_the_readme_has_the_plan_as_printed():
    report = json.loads(RESULTS.read_text())
    programs = [planned.Program(**each) for each in report["programs"]]
    rows = [scaling_plan.Row(**each) for each in report["rows"]]
    text = (RESULTS.parent.parent / "README.md").read_text()
    assert scaling_plan.programs_table(programs) in text
    assert scaling_plan.rows_table(rows) in text
