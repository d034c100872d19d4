"""Digests of what a checkpoint holds: whether it is whole can be checked when it is read.

A checkpoint's digests lie in it as JSON, with a digest of themselves, so that a flipped bit
anywhere is noticed. Checkpoints of older versions have none, and cannot be checked.
"""

import concurrent.futures
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from pf_jax.errors import UserError

ITEM = "digests"
"""Name of the digests' folder in a checkpoint."""

ITEM_FILE = "metadata"
"""File in the folder of a checkpoint's JSON item, as orbax names it."""

STEP_FILE = "_CHECKPOINT_METADATA"
"""File in which orbax lists the items of a checkpoint."""


class DamagedError(UserError):
    """A checkpoint that cannot be read, or does not hold what was saved."""


class ArrayDigest(NamedTuple):
    """One array in a few bytes.

    Attributes:
        dtype: Name of the array's type.
        shape: Shape of the array.
        digest: Digest of type, shape and bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    digest: str


class LogDigest(NamedTuple):
    """The start of `metrics.jsonl` in a few bytes.

    Attributes:
        size: Number of bytes that the file had when the checkpoint was saved.
        digest: Digest of these bytes.
    """

    size: int
    digest: str


class Digests(NamedTuple):
    """What a checkpoint holds, in a few bytes an array.

    Attributes:
        arrays: Digest of each array, by its path in the training state.
        encoding: Digest of the encoding.
        valid_nll: Validation loss; None for a state that was not validated.
        settings: Fields of the config, as JSON values; empty where they are not known.
        log: Digest of `metrics.jsonl`; None where there was none.
        progress: What the run has to know beside its state, as a JSON object; empty for a
            checkpoint of an older version.
    """

    arrays: Mapping[str, ArrayDigest]
    encoding: str
    valid_nll: float | None = None
    settings: Mapping[str, Any] = {}
    log: LogDigest | None = None
    progress: Mapping[str, Any] = {}

    def to_json(self) -> dict[str, Any]:
        """The digests as a JSON value, with a digest of themselves."""
        content = self._asdict()
        return {"digest": json_digest(content), **content}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Digests":
        """The inverse of `to_json`.

        Raises:
            ValueError: If the values are not what `to_json` returned.
        """
        content = dict(values)
        if content.pop("digest") != json_digest(content):
            raise ValueError("other digests")
        arrays = {
            name: ArrayDigest(dtype, tuple(shape), digest)
            for name, (dtype, shape, digest) in content.pop("arrays").items()
        }
        log = content.pop("log")
        return cls(arrays, **content, log=LogDigest(*log) if log else None)


def bytes_digest(data: bytes) -> str:
    """The digest of some bytes."""
    return hashlib.sha256(data).hexdigest()


def json_digest(value: Any) -> str:
    """The digest of a JSON value; it does not depend on the order of names."""
    return bytes_digest(json.dumps(value, sort_keys=True).encode())


def array_digest(array: Any) -> ArrayDigest:
    """The digest of an array's type, shape and bytes.

    Args:
        array: Array, the same on all its devices, of which some may be other processes'.
    """
    array = np.asarray(
        array.addressable_data(0) if isinstance(array, jax.Array) else array
    )
    content = hashlib.sha256()
    content.update(f"{array.dtype.name} {array.shape}".encode())
    # As bytes: types such as bfloat16 have no buffer.
    content.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return ArrayDigest(array.dtype.name, array.shape, content.hexdigest())


def array_digests(arrays: Mapping[str, Any]) -> dict[str, ArrayDigest]:
    """The digest of each array, by its name; computed on several cores."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip(arrays, pool.map(array_digest, arrays.values()), strict=True))


def read_digests(checkpoint: pathlib.Path) -> Digests | None:
    """The digests of a checkpoint; None for one of an older version.

    Args:
        checkpoint: Folder of the checkpoint.

    Raises:
        DamagedError: If the digests are missing or damaged.
    """
    path = checkpoint / ITEM / ITEM_FILE
    try:
        return Digests.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError as error:
        if path.parent.exists() or _lists_digests(checkpoint):
            raise DamagedError("its digests are missing") from error
        return None
    except (
        AttributeError,
        KeyError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
    ) as e:
        raise DamagedError("its digests are damaged") from e


def _lists_digests(checkpoint: pathlib.Path) -> bool:
    """Whether a checkpoint was saved with digests."""
    try:
        return f'"{ITEM}"'.encode() in (checkpoint / STEP_FILE).read_bytes()
    except OSError:
        return False


def read_encoding(checkpoint: pathlib.Path, digests: Digests | None) -> Any:
    """The encoding that was saved with a checkpoint, as a JSON value.

    Args:
        checkpoint: Folder of the checkpoint.
        digests: Digests of the checkpoint; None where it has none.

    Raises:
        DamagedError: If the encoding cannot be read, or is not the one that was saved.
    """
    try:
        value = json.loads((checkpoint / "encoding" / ITEM_FILE).read_bytes())
    except (OSError, RecursionError, ValueError) as error:
        raise DamagedError("its encoding cannot be read") from error
    if digests is not None and json_digest(value) != digests.encoding:
        raise DamagedError("its encoding is not the one that was saved")
    return value


def checkpoint_steps(folder: pathlib.Path) -> list[int]:
    """The steps of the checkpoints in a folder, in ascending order."""
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir())
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def newest_digests(folder: pathlib.Path) -> tuple[int, Digests] | None:
    """The newest checkpoint's step and digests, of those whose digests are whole.

    Args:
        folder: Folder of the checkpoints.

    Returns:
        None where no checkpoint has digests that are whole.
    """
    for step in reversed(checkpoint_steps(folder)):
        try:
            digests = read_digests(folder / str(step))
        except DamagedError:
            continue
        if digests is not None:
            return step, digests
    return None
