import pathlib
import random
import shutil
import signal
import socket
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from errors import error_of
from processes import (
    Launcher,
    checkpoint_steps,
    ends,
    free_port,
    newest_state,
    timeless,
    wait_for_step,
)
from trees import assert_close, assert_same_bits

from configs import default
from pf_jax import parallel
from pf_jax.data import cut_windows, gather_windows, join_sequences, windows_to_batch
from pf_jax.discriminator import DiscriminatorSizes
from pf_jax.errors import UserError
from pf_jax.experiment import agreement, build, hosts, joining, validation
from pf_jax.experiment.joining import Address, check_address
from pf_jax.metrics import average
from pf_jax.state import GeneratorSizes, create_train_state
from pf_jax.types import Batch

NUM_STEPS = 200
GATES = ("generator_gate_open", "discriminator_gate_open")


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    source = random.Random(0)
    words = ["".join(source.choices("abcdefgh", k=4)) for _ in range(30)]
    text = " ".join(source.choices(words, k=1600))
    return Launcher(tmp_path_factory.mktemp("hosts"), text)


def _flags(launcher: Launcher, workdir: pathlib.Path) -> list[str]:
    """Each step has a line of its own, so that gates are compared one by one."""
    fields = {
        "train__num_steps": NUM_STEPS,
        "train__learning_rate": 3e-3,
        "train__log_every": 1,
        "train__eval_every": 100,
        "train__checkpoint_every": 50,
    }
    return [f"--workdir={workdir}", *launcher.flags(**fields)]


@pytest.fixture(scope="module")
def one_process(launcher, tmp_path_factory) -> pathlib.Path:
    """The workdir of a run of one process with eight devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    (ended,) = ends([launcher.start(*_flags(launcher, workdir), num_devices=8)])
    assert ended.status == 0, ended.err
    return workdir


def _assert_equal_runs(actual: pathlib.Path, expected: pathlib.Path) -> None:
    """One line a step, the same gates at each, and the same state but for rounding."""
    lines, others = timeless(actual), timeless(expected)
    assert [(x["step"], x["split"]) for x in lines] == [
        (x["step"], x["split"]) for x in others
    ]
    for line, other in zip(lines, others, strict=True):
        assert line.keys() == other.keys()
        for name in GATES:
            assert line.get(name) == other.get(name), line["step"]
        assert line["nll"] == pytest.approx(other["nll"], abs=1e-5)
    for name in GATES:
        assert {line[name] for line in lines if name in line} == {0.0, 1.0}
    state, other = newest_state(actual), newest_state(expected)
    assert int(state.step) == NUM_STEPS
    other = other.replace(settings=state.settings)
    leaves = zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True)
    furthest = max(float(jnp.max(jnp.abs(x - y))) for x, y in leaves)
    print(f"furthest apart: {furthest:.1e}")
    assert_close(state, other, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def two_processes(launcher, tmp_path_factory) -> pathlib.Path:
    """The workdir of a run of two processes, one of which was stopped in between."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    started = launcher.start_together(2, 4, *_flags(launcher, workdir))
    wait_for_step(workdir, 30, started)
    started[1].send_signal(signal.SIGTERM)
    first, second = ends(started)
    assert (first.status, second.status) == (130, 130), (first.err, second.err)
    (step,) = checkpoint_steps(workdir)
    assert f"stopped at step {step}: " in first.out and step < 50

    first, second = ends(launcher.start_together(2, 4, *_flags(launcher, workdir)))
    assert (first.status, second.status) == (0, 0), (first.err, second.err)
    assert f"continues from step {step}" in first.out and "Gloo" not in first.out
    assert (second.out, second.err) == ("", "")
    return workdir


@pytest.mark.slow
def test_two_processes_of_four_devices_equal_one_of_eight(two_processes, one_process):
    _assert_equal_runs(two_processes, one_process)


@pytest.mark.slow
def test_run_goes_on_with_another_number_of_processes(
    launcher, two_processes, one_process, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(two_processes, workdir)
    # As after a crash: a part of the log is of later steps than the checkpoint.
    for step in (150, 200):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(lines[:110]))
    flags = _flags(launcher, workdir)
    process = launcher.start(*flags, num_devices=8)
    wait_for_step(workdir, 165, [process])
    process.send_signal(signal.SIGHUP)
    (ended,) = ends([process])
    assert ended.status == 130, ended.err
    assert "continues from step 100" in ended.out
    step = checkpoint_steps(workdir)[-1]
    assert 165 <= step < NUM_STEPS and f"stopped at step {step}: " in ended.out

    ended = ends(launcher.start_together(4, 2, *flags))
    assert [end.status for end in ended] == [0] * 4, ended
    assert f"continues from step {step}" in ended[0].out
    _assert_equal_runs(workdir, one_process)


@pytest.mark.slow
def test_processes_end_when_one_is_killed_and_the_run_goes_on(
    launcher, one_process, tmp_path
):
    workdir = tmp_path / "run"
    started = launcher.start_together(3, 1, *_flags(launcher, workdir))
    wait_for_step(workdir, 60, started)
    started[1].kill()
    killed = time.monotonic()
    first, second, third = ends(started)
    assert time.monotonic() - killed < 60
    assert second.status == -signal.SIGKILL
    for ended in (first, third):
        assert ended.status == 1, ended.err
        assert ended.err == (
            "error: process 1 of 3 no longer answers: start all processes again to "
            "continue from the newest checkpoint\n"
        )
    print(f"ended {time.monotonic() - killed:.1f} seconds after the kill")
    (ended,) = ends([launcher.start(*_flags(launcher, workdir), num_devices=8)])
    assert ended.status == 0, ended.err
    assert "continues from step 50" in ended.out
    _assert_equal_runs(workdir, one_process)


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["slurm", "open_mpi"])
def test_processes_of_a_cluster_find_one_another(launcher, tmp_path, cluster):
    # They are refused then, since their settings differ, which shows that they met.
    started = []
    job = random.randrange(1, 2**12)
    for number in range(2):
        environment = {
            "slurm": {
                "SLURM_JOB_ID": job,
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_NTASKS": 2,
                "SLURM_PROCID": number,
                "SLURM_LOCALID": number,
            },
            "open_mpi": {
                "OMPI_MCA_orte_hnp_uri": f"{job * 2**12}.0;tcp://127.0.0.1:1",
                "OMPI_COMM_WORLD_SIZE": 2,
                "OMPI_COMM_WORLD_RANK": number,
                "OMPI_COMM_WORLD_LOCAL_RANK": number,
                "OMPI_VERSION": "4.1.6",
            },
        }[cluster]
        flags = [f"--workdir={tmp_path / 'run'}", *launcher.flags(seed=number)]
        started.append(launcher.start("--distributed", *flags, **environment))
    for ended in ends(started, 60):
        assert ended.status == 2, ended
        assert ended.err.startswith("error: process 1 has other settings or other data")
        assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "address, cause",
    [
        (Address(num_processes=2), "--num_processes=2: needs --coordinator and"),
        (Address("a:1", 2), "--coordinator=a:1: needs --process_id too"),
        (Address("a:1", 2, 2), "--process_id=2: must be from 0 to 1"),
        (Address("a:1", 2, -1), "--process_id=-1: must be from 0 to 1"),
        (Address("a:1", 0, 0), "--num_processes=0: must be at least 1"),
        (Address("a", 2, 0), "--coordinator=a: must be HOST:PORT"),
        (Address("a:b", 2, 0), "--coordinator=a:b: must be HOST:PORT"),
        (Address("a:70000", 2, 0), "--coordinator=a:70000: must be HOST:PORT"),
    ],
)
def test_check_address_error_names_the_flag(address, cause):
    assert cause in error_of(check_address, address, True)


def test_check_address_without_distributed():
    check_address(Address(), False)
    check_address(Address("a:1", 2, 1), True)
    message = error_of(check_address, Address("a:1", 2, 1), False)
    assert "--coordinator=a:1" in message and "--distributed" in message


def test_coordinator_that_cannot_be_reached_is_an_error():
    address = Address("nowhere.invalid:1234", 2, 1)
    assert "nowhere.invalid:1234: no such host" in error_of(
        joining._check_reachable, address, 0.1
    )
    address = Address(f"127.0.0.1:{free_port()}", 2, 1)
    assert "process 0 does not answer" in error_of(
        joining._check_reachable, address, 0.3
    )
    with socket.create_server(("", 0)) as taken:
        address = Address(f"127.0.0.1:{taken.getsockname()[1]}", 2, 0)
        message = error_of(joining._check_reachable, address, 0.1)
        assert "cannot use that port" in message
        joining._check_reachable(address._replace(process_id=1), 0.1)
    joining._check_reachable(Address(f"localhost:{free_port()}", 2, 0), 0.1)


def test_coordinator_is_found_on_a_host_without_ipv6(monkeypatch):
    new = socket.socket

    def only_ipv4(family=socket.AF_INET, *arguments, **keywords):
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return new(family, *arguments, **keywords)

    monkeypatch.setattr(socket, "socket", only_ipv4)
    joining._check_own_port(("127.0.0.1", free_port()), "--coordinator")


def test_train_py_error_for_flags_of_hosts_is_one_line(launcher, tmp_path):
    arguments = (f"--workdir={tmp_path / 'run'}", "--distributed", "--num_processes=2")
    (ended,) = ends([launcher.start(*arguments)])
    assert ended.status == 2
    assert ended.err == (
        "error: --num_processes=2: needs --coordinator and --process_id too; on a "
        "cluster that JAX knows leave out all three\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("are_whole", [True, False])
def test_windows_cut_on_the_host_equal_those_gathered_on_the_device(are_whole):
    values = np.random.default_rng(0).integers(200, size=(60, 3)).astype(np.uint8)
    rows = np.random.default_rng(1).integers(1, 8, size=(2, 5, 2)).astype(np.int32)
    windows = cut_windows(values, rows, length=7, are_whole=are_whole)
    for update in range(2):
        expected = gather_windows(
            jnp.asarray(values), rows[update], length=7, are_whole=are_whole
        )
        own = jax.tree.map(lambda x, update=update: x[update], windows)
        actual = windows_to_batch(own, are_whole=are_whole)
        assert actual.inputs.dtype == jnp.int32
        assert (actual.mask is None) == are_whole
        assert_same_bits(actual, expected)


def _step(state, batch, key, *, axis_name):
    """Adds what the batch's device sees to a parameter, with noise."""
    noise = jax.random.normal(key, ())
    total = jax.lax.psum(jnp.sum(jnp.sin(batch.inputs * 1.0)), axis_name)
    weight = state.accuracy_average * 0.9 + noise * total
    metrics = {"total": average(total, 2.0), "noise": average(noise)}
    return state.replace(step=state.step + 1, accuracy_average=weight), metrics


def _make_batch(data, rows):
    values = data[rows][None]
    return Batch(values, values)


def test_make_updates_does_not_depend_on_how_updates_are_divided(on_eight_cpus):
    data = jnp.arange(100)
    rows = np.random.default_rng(0).integers(100, size=(6, 16)).astype(np.int32)
    key = jax.random.key(1)
    updates = parallel.make_updates(_step, _make_batch)

    def run(*counts):
        state = create_train_state(
            jax.random.key(0),
            generator=GeneratorSizes(2, 1, 1),
        )
        state, found, first = parallel.replicate(state), [], 0
        for count in counts:
            padded = np.zeros_like(rows)
            padded[:count] = rows[first : first + count]
            state, history = updates(
                state, data, parallel.shard_rows(padded), count, key
            )
            found.append(jax.tree.map(lambda x, count=count: x[:count], history))
            for leaf in jax.tree.leaves(history):
                assert not np.any(leaf[count:])
            first += count
        return state, jax.tree.map(lambda *parts: np.concatenate(parts), *found)

    state, history = run(6)
    assert int(state.step) == 6
    sums = np.sin(rows.astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(history["total"].total, sums, rtol=1e-5)
    for counts in ((1, 1, 1, 1, 1, 1), (4, 2), (1, 5)):
        assert_same_bits(run(*counts), (state, history))


def _as_if(monkeypatch, number: int, count: int) -> None:
    """Makes this process one of several, as far as JAX says."""
    monkeypatch.setattr(jax, "process_index", lambda: number)
    monkeypatch.setattr(jax, "process_count", lambda: count)


@pytest.mark.parametrize("length, count", [(8, 3), (2, 4), (5, 1), (32, 5)])
def test_own_parts_are_all_items_in_order(monkeypatch, length, count):
    parts = []
    for number in range(count):
        _as_if(monkeypatch, number, count)
        parts.append(parallel.own_part(range(length)))
    assert [item for part in parts for item in part] == list(range(length))
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("count", [2, 3, 5])
def test_validation_shared_between_processes_equals_that_of_one(monkeypatch, count):
    state = create_train_state(
        jax.random.key(0),
        generator=GeneratorSizes(6, 5, 3),
        discriminator=DiscriminatorSizes(3, 3),
    )
    source = np.random.default_rng(0)
    split = join_sequences([source.integers(6, size=n) for n in (70, 300, 9, 40)])
    key = jax.random.key(7)

    def measure():
        values = validation.likelihood(state, split, num_streams=4, context=3)
        return values | validation.held_out_discriminator(
            state, split, key, length=8, batch_size=20
        )

    expected, sums = measure(), []
    for number in range(count):
        _as_if(monkeypatch, number, count)
        monkeypatch.setattr(
            validation,
            "gather_from_processes",
            lambda values: sums.append(values) or values[None],
        )
        measure()
    for names, first in (
        (("idle_units", "nll"), 0),
        (("discriminator_accuracy", "discriminator_loss", "free_running_loss"), 1),
    ):
        total = np.sum(sums[first::2], axis=0, dtype=np.float64).reshape(-1, 2)
        for name, (sum_, weight) in zip(names, total, strict=True):
            if name != "idle_units":  # of each process's own rows
                assert sum_ / weight == pytest.approx(expected[name], rel=1e-5)
    assert sum(part[3] for part in sums[::2]) == split.num_steps


def test_validation_is_given_up_where_its_caller_says_so():
    state = create_train_state(jax.random.key(0), generator=GeneratorSizes(6, 5, 3))
    split = join_sequences([np.arange(2000) % 6])
    calls = []

    def give_up():
        calls.append(len(calls))
        if len(calls) == 3:
            raise agreement.GivenUp

    with pytest.raises(agreement.GivenUp):
        validation.likelihood(
            state, split, num_streams=1, context=0, before_each=give_up
        )
    assert calls == [0, 1, 2]


def test_agree_is_what_any_process_was_asked(monkeypatch):
    assert agreement.agree(True, 0.5) == (True, 0.5)
    assert agreement.agree(False, 0.5) == (False, 0.5)
    _as_if(monkeypatch, 0, 3)
    for asked, answer in (([0, 1, 0], True), ([0, 0, 0], False)):
        monkeypatch.setattr(
            agreement,
            "gather_from_processes",
            lambda own, asked=asked: np.array(
                [[x, 0.5 + i] for i, x in enumerate(asked)]
            ),
        )
        assert agreement.agree(False, 0.5) == (answer, 2.5)


def test_processes_with_other_data_are_an_error(monkeypatch, tmp_path):
    def digest_of(text):
        (tmp_path / "text.txt").write_text(text * 50)
        config = default.get_config()
        config.data.name, config.data.path = "text", str(tmp_path / "text.txt")
        config.train.sequence_length = 4
        experiment, seen = build.load_experiment(config), []
        monkeypatch.setattr(
            agreement,
            "gather_from_processes",
            lambda own: seen.append(own) or np.stack([own, own]),
        )
        agreement.check_same_input(experiment)
        return experiment, seen[0]

    _as_if(monkeypatch, 0, 2)
    _, first = digest_of("abcd ")
    experiment, second = digest_of("abdc ")
    assert (np.float32(first) == first).all() and (first != second).any()
    monkeypatch.setattr(
        agreement, "gather_from_processes", lambda own: np.stack([first, own])
    )
    message = error_of(agreement.check_same_input, experiment)
    assert message.startswith("process 1 has other settings or other data")


def test_processes_with_unequal_devices_are_an_error(monkeypatch):
    agreement.check_same_devices()
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "local_devices", lambda process: [0] * (4 - process // 2))
    message = error_of(agreement.check_same_devices)
    assert message.startswith("process 2 has 3 devices and process 0 has 4")


@pytest.mark.parametrize(
    ("error", "status", "waits"),
    [
        (RuntimeError("UNKNOWN: Gloo all-reduce failed"), 1, True),
        (ValueError("UNKNOWN: Gloo AllGather failed"), 1, True),
        (UserError("data.path: no such file"), 2, False),
        (KeyError("a defect"), 1, False),
    ],
)
def test_fail_waits_for_the_report_of_a_dead_process(
    monkeypatch, capsys, error, status, waits
):
    def leave(number):
        raise SystemExit(number)

    slept, watch = [], mock.Mock()
    monkeypatch.setattr(hosts.time, "sleep", slept.append)
    monkeypatch.setattr(hosts.os, "_exit", leave)
    with pytest.raises(SystemExit) as ended:
        hosts._fail(error, watch)
    assert ended.value.code == status
    assert slept == ([hosts.DEATH_SECONDS + 10] if waits else [])
    assert watch.mock_calls == [
        mock.call.stop(),
        mock.call.report("failed"),
        mock.call.linger(),
    ]
    assert str(error.args[0]) in capsys.readouterr().err
