"""Trains a model: `python train.py --config configs/NAME.py --workdir DIR`.

`--config.FIELD=VALUE` changes a field of the config. In a workdir that holds a checkpoint,
training continues from there. With `--distributed` several processes train one model: see
docs/hosts.md.
"""

import functools
import pathlib

from absl import flags

import stops  # noqa: F401  # First, so that a request to stop during imports is answered.
from pf_jax.experiment import checks, command_line

DEFAULT_CONFIG = str(pathlib.Path(__file__).parent / "configs" / "default.py")
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run. Default: runs/NAME, where NAME is the config file's name.",
)
DISTRIBUTED = flags.DEFINE_boolean(
    "distributed",
    False,
    "Train together with the processes that the cluster has started, or with those that "
    "have the same --coordinator.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where no cluster says it."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes, where no cluster says it."
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Number of this process, from 0, where no cluster says it."
)


def main() -> None:
    """Checks the config and trains."""
    config = flags.FLAGS.config
    checks.check_config(config)
    # Imported here: a mistake in the flags is reported before orbax is loaded.
    from pf_jax.experiment import hosts, joining, loop

    address = joining.Address(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    joining.check_address(address, DISTRIBUTED.value)
    workdir = WORKDIR.value or f"runs/{command_line.config_name()}"
    train = functools.partial(loop.train_and_evaluate, config, workdir)
    if DISTRIBUTED.value:
        hosts.train_together(train, address)
    else:
        train()


if __name__ == "__main__":
    command_line.run(main, default_config=DEFAULT_CONFIG)
