"""Texts through TensorFlow Datasets, which is imported where it is used."""

import contextlib
import importlib.util
import pathlib
from collections.abc import Iterator
from typing import Any

from absl import logging

from pf_jax.errors import UserError

_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
    "tinyshakespeare/input.txt"
)
_TIMEOUT = 10  # seconds


def tiny_shakespeare(path: str, manual_dir: str = "") -> dict[str, str]:
    """Tiny Shakespeare, in the splits of TensorFlow Datasets.

    Reading a data set that is prepared in TFDS's array_record format needs no
    TensorFlow; preparing one needs the extra `pf_jax[tfds]`, and a network or the
    original file.

    Args:
        path: The `data_dir` of TFDS; its default if empty.
        manual_dir: A folder with the original file under its own name, `input.txt`,
            instead of a network.

    Raises:
        UserError: If it cannot be read or prepared.
    """
    import tensorflow_datasets as tfds

    try:
        with _quiet():
            builder = tfds.builder("tiny_shakespeare", data_dir=path or None)
            if not builder.is_prepared():
                _prepare(builder, manual_dir)
            source = _source(builder)
            return {
                ours: source[theirs][0]["text"].decode("utf-8")
                for ours, theirs in _SPLITS.items()
            }
    except UserError:
        raise
    except Exception as error:  # Each stage of TFDS has its own kinds.
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise _failure(
            f"TFDS cannot prepare it ({cause[0]}): install pf_jax[tfds]"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's progress bars, and its warning that nothing is prepared yet."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _prepare(builder: Any, manual_dir: str) -> None:
    import requests
    import tensorflow_datasets as tfds

    for module in ("tensorflow", "importlib_resources"):
        if importlib.util.find_spec(module) is None:
            raise _failure(
                f"not prepared in {builder.data_dir}, and {module} is missing: "
                "pip install 'pf_jax[tfds]'"
            )
    if not manual_dir:
        # TFDS itself would try for minutes.
        try:
            requests.head(_URL, timeout=_TIMEOUT).raise_for_status()
        except requests.RequestException as error:
            raise _failure(f"cannot reach {_URL}: connect to a network") from error
    elif not (pathlib.Path(manual_dir).expanduser() / "input.txt").is_file():
        raise _failure(f"no input.txt in {manual_dir}: put the original file there")
    builder.download_and_prepare(
        file_format="array_record",
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir or None),
    )


def _source(builder: Any) -> Any:
    try:
        return builder.as_data_source()
    except NotImplementedError as error:
        raise _failure(
            f"{builder.data_dir} is not in the array_record format: give another "
            "folder with --config.data.path=DIR"
        ) from error


def _failure(cause: str) -> UserError:
    return UserError(
        f"tiny_shakespeare: {cause}, or give the text itself with "
        "--config.data.name=text --config.data.path=FILE"
    )
