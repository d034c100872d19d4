"""The config that `train.py` starts from where no config file is given."""

import pathlib

from ml_collections import config_dict

from pf_jax.errors import without_warnings


def run_config(
    folders: tuple[str | None, ...], default: config_dict.ConfigDict
) -> config_dict.ConfigDict | None:
    """The config of the first of some folders that holds a run.

    Args:
        folders: Folders; None for one that is not given.
        default: Config with all fields, for those that the run is older than.

    Returns:
        None where no folder holds a run.

    Raises:
        UserError: If a run's config is damaged and no checkpoint has it.
    """
    for folder in folders:
        workdir = None if folder is None else pathlib.Path(folder)
        if workdir is None or not _holds_run(workdir):
            continue
        # Imported here: most commands start a new run.
        from pf_jax.experiment.saved_files import continued_config

        # Training prints them.
        with without_warnings(True):
            return _completed(continued_config(workdir), default)
    return None


def _holds_run(workdir: pathlib.Path) -> bool:
    """Whether a folder has a config, or checkpoints, which have it too."""
    steps = (path.name for path in (workdir / "checkpoints").glob("*"))
    return (workdir / "config.json").exists() or any(map(str.isdigit, steps))


def _completed(
    config: config_dict.ConfigDict, default: config_dict.ConfigDict
) -> config_dict.ConfigDict:
    """A config with the default's values of fields that it lacks."""
    for name, value in default.items():
        if name not in config:
            config[name] = value
        elif isinstance(value, config_dict.ConfigDict):
            _completed(config[name], value)
    return config
