import json
import pathlib
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from errors import error_of
from trees import assert_same_bits
from whole_runs import flip

from pf_jax.experiment.checkpoint import Checkpoints
from pf_jax.experiment.digests import (
    ITEM,
    STEP_FILE,
    DamagedError,
    Digests,
    LogDigest,
    array_digest,
    json_digest,
    newest_digests,
    read_digests,
)
from pf_jax.players import Player
from pf_jax.state import Settings, TrainState


def make_state(step: int, size: int = 400) -> TrainState:
    source = np.random.default_rng(step)
    kernel, bias = (jnp.asarray(source.normal(size=n), jnp.float32) for n in (size, 8))
    return TrainState(
        step=jnp.int32(step),
        generator=Player({"kernel": kernel, "bias": bias}, (jnp.int32(step), -kernel)),
        discriminator=Player([kernel * 2], ()),
        accuracy_average=jnp.float32(0.5),
        settings=Settings(),
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder)
    settings = {"seed": 3, "data": {"columns": ("a", "b")}}
    for step in (1, 2):
        log = LogDigest(10 * step, "of the log")
        checkpoints.save(
            make_state(step), {"kind": "x"}, 3.0 - step, settings=settings, log=log
        )
    checkpoints.close()
    return folder


def test_array_digest_is_of_type_shape_and_bytes():
    array = np.arange(6, dtype=np.float32)
    digest = array_digest(array)
    assert digest[:2] == ("float32", (6,))
    assert digest == array_digest(jnp.asarray(array)) == array_digest(array[::1].copy())
    assert digest == array_digest(np.arange(12, dtype=np.float32)[:6])
    assert digest != array_digest(array.reshape(2, 3))
    assert digest != array_digest(array.view(np.int32))
    assert digest != array_digest(np.nextafter(array, 1, dtype=np.float32))
    assert array_digest(np.float32(0.0)) != array_digest(np.float32(-0.0))
    half = jnp.arange(3, dtype=jnp.bfloat16)
    assert array_digest(half).dtype == "bfloat16"
    assert array_digest(half) != array_digest(half.astype(jnp.float16))


def test_array_digest_of_replicated_array_is_the_arrays(on_eight_cpus):
    mesh = jax.make_mesh((8,), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    array = np.arange(5, dtype=np.float32)
    assert array_digest(jax.device_put(array, sharding)) == array_digest(array)


def test_digests_come_back_from_json():
    digests = Digests(
        {"step": array_digest(np.int32(3))},
        json_digest([1]),
        0.1,
        {"b": (1, 2), "a": None},
        LogDigest(5, "x"),
    )
    values = json.loads(json.dumps(digests.to_json()))
    restored = Digests.from_json(values)
    assert restored._replace(settings={}) == digests._replace(settings={})
    assert restored.settings == {"b": [1, 2], "a": None}
    for name in values:
        with pytest.raises(ValueError, match="other digests"):
            Digests.from_json({**values, name: "other"})


def test_checkpoint_holds_the_digests_of_what_was_saved(saved):
    digests = read_digests(saved / "2")
    assert digests is not None
    state = make_state(2)
    assert digests.arrays["generator.params.kernel"] == array_digest(
        state.generator.params["kernel"]
    )
    assert len(digests.arrays) == len(jax.tree.leaves(state))
    assert digests.encoding == json_digest({"kind": "x"})
    assert (digests.valid_nll, digests.log) == (1.0, LogDigest(20, "of the log"))
    assert digests.settings == {"seed": 3, "data": {"columns": ["a", "b"]}}
    assert newest_digests(saved) == (2, digests)


def test_newest_digests_are_of_the_newest_whole_ones(saved, tmp_path):
    folder = copy(saved, tmp_path)
    flip(folder / "2" / ITEM / "metadata", 200)
    assert newest_digests(folder) == (1, read_digests(saved / "1"))
    assert newest_digests(tmp_path / "nowhere") is None


@pytest.mark.parametrize("part", ["folder", "file"])
def test_checkpoint_whose_digests_were_removed_is_damaged(saved, tmp_path, part):
    folder = copy(saved, tmp_path)
    (folder / "2" / ITEM / "metadata").unlink()
    if part == "folder":
        (folder / "2" / ITEM / "commit_success.txt").unlink(missing_ok=True)
        (folder / "2" / ITEM).rmdir()
    assert error_of(read_digests, folder / "2") == "its digests are missing"
    # An older one has none, and its metadata does not list any.
    content = json.loads((folder / "1" / STEP_FILE).read_text())
    assert ITEM in content["item_handlers"]


def copy(saved: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    copied = folder / "copied"
    for path in saved.rglob("*"):
        if path.is_file():
            target = copied / path.relative_to(saved)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return copied


def outcome(folder: pathlib.Path, expected: TrainState) -> str:
    """What comes of restoring the checkpoint of step 2."""
    checkpoints = Checkpoints(folder)
    try:
        encoding = checkpoints.restore_encoding(2)
        state = checkpoints.restore(make_state(0), 2)
    except DamagedError as error:
        assert len(str(error).splitlines()) == 1
        return "damaged"
    assert checkpoints.steps_by_loss()[0] == 2
    assert encoding == {"kind": "x"}
    assert_same_bits(state, expected)
    return "whole"


@pytest.mark.slow
def test_no_flipped_bit_of_a_checkpoint_loads_other_values(saved, tmp_path, capfd):
    folder, expected = copy(saved, tmp_path), make_state(2)
    files = sorted(path for path in (folder / "2").rglob("*") if path.is_file())
    # Half of all flips where the arrays are, a tenth of them otherwise.
    arrays = max(files, key=lambda path: path.stat().st_size * ("state" in path.parts))
    source, outcomes = random.Random(0), {}
    capfd.readouterr()
    for number in range(200):
        path = arrays if number % 2 else files[number // 2 % len(files)]
        content = path.read_bytes()
        flip(path, source.randrange(len(content)), source.randrange(8))
        result = outcome(folder, expected)
        key = "arrays" if path == arrays else path.relative_to(folder / "2").parts[0]
        outcomes.setdefault(key, []).append(result)
        path.write_bytes(content)
    assert outcome(folder, expected) == "whole"
    assert sum(map(len, outcomes.values())) == 200
    assert outcomes["arrays"].count("damaged") > 60
    assert set(outcomes[ITEM]) >= {"damaged"}
    assert set(outcomes["metrics"]) == {"whole"}  # The loss is among the digests too.
    # Neither orbax nor its readers print anything.
    assert capfd.readouterr() == ("", "")
