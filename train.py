"""Trains a model: `python train.py --config configs/NAME.py --workdir DIR`.

`--config.FIELD=VALUE` changes a field of the config. In a workdir that holds a checkpoint,
training continues from there.
"""

import pathlib

from absl import flags

from pf_jax.experiment import checks, command_line

DEFAULT_CONFIG = str(pathlib.Path(__file__).parent / "configs" / "default.py")
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run. Default: runs/NAME, where NAME is the config file's name.",
)


def main() -> None:
    """Checks the config and trains."""
    config = flags.FLAGS.config
    checks.check_config(config)
    # Imported here: a mistake in the flags is reported before orbax is loaded.
    from pf_jax.experiment import loop

    loop.train_and_evaluate(
        config, WORKDIR.value or f"runs/{command_line.config_name()}"
    )


if __name__ == "__main__":
    command_line.run(main, default_config=DEFAULT_CONFIG)
