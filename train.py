"""Trains a model: `python train.py --config configs/NAME.py --workdir DIR`.

`--config.FIELD=VALUE` changes a field of the config. In a workdir that holds a checkpoint,
training continues from there, and without `--config` with the run's own config. With
`--init_from RUN` a new run starts from a trained model, and without `--config` with its
config. With `--distributed` several processes train one model: see
docs/hosts.md.
"""

import functools
import pathlib

from absl import flags
from ml_collections import config_dict

import allocator  # noqa: F401  # Before anything starts a thread.
import stops  # noqa: F401  # Early, so that a request to stop during imports is answered.
from pf_jax.errors import UserError
from pf_jax.experiment import checks, command_line, run_config

DEFAULT_CONFIG = str(pathlib.Path(__file__).parent / "configs" / "default.py")
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run. Default: runs/NAME, where NAME is the config file's name.",
)
INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "Folder of a run whose trained model a new run starts from. Without effect where "
    "--workdir holds a run.",
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


def own_config(typed: command_line.Typed) -> config_dict.ConfigDict | None:
    """The config of the run that the flags name, where they name one."""
    workdir = typed("workdir") or f"runs/{pathlib.Path(DEFAULT_CONFIG).stem}"
    default = command_line.load_config(DEFAULT_CONFIG)
    return run_config.run_config((workdir, typed("init_from")), default)


def main() -> None:
    """Checks the config and trains."""
    config = flags.FLAGS.config
    checks.check_config(config)
    # Imported here: a mistake in the flags is reported before orbax is loaded.
    from pf_jax.experiment import hosts, joining, loop

    address = joining.Address(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    joining.check_address(address, DISTRIBUTED.value)
    if INIT_FROM.value and not WORKDIR.value:
        raise UserError(
            f"--init_from={INIT_FROM.value}: needs a folder for the new run: give "
            "--workdir=FOLDER"
        )
    workdir = WORKDIR.value or f"runs/{command_line.config_name()}"
    train = functools.partial(
        loop.train_and_evaluate, config, workdir, init_from=INIT_FROM.value
    )
    if DISTRIBUTED.value:
        hosts.train_together(train, address)
    else:
        train()


if __name__ == "__main__":
    command_line.run(main, default_config=DEFAULT_CONFIG, own_config=own_config)
