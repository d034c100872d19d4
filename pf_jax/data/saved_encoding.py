"""Encodings as JSON: of the package's kinds, and of the user's own classes."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from pf_jax.data import (
    byte_tokens,
    piano,
    pixels,
    series,
    strokes,
    translation,
    vocabulary,
    waveform,
    words,
)
from pf_jax.data.encoding import Encoding
from pf_jax.data.own_code import OwnCodeError, is_own, load_own, own_name
from pf_jax.errors import UserError
from pf_jax.files import write_whole
from pf_jax.reading import read_file

ENCODINGS: dict[str, type[Encoding]] = {
    encoding.kind: encoding
    for encoding in (
        vocabulary.Vocabulary,
        byte_tokens.Bytes,
        words.Words,
        pixels.Pixels,
        strokes.Strokes,
        waveform.Waveform,
        piano.PianoRoll,
        series.Series,
        translation.Translation,
    )
}
"""The encoding of each `kind` in JSON; own classes are named as `package.module:Class`."""


def encoding_to_json(encoding: Encoding) -> dict[str, Any]:
    """The encoding's kind and fields as JSON values, for `encoding_from_json`.

    Raises:
        OwnCodeError: If it is of an own class that no other process could import.
    """
    own = type(encoding)
    is_known = own in ENCODINGS.values()
    return {"kind": own.kind if is_known else own_name(own), **encoding.to_json()}


def encoding_from_json(values: Mapping[str, Any]) -> Encoding:
    """The inverse of `encoding_to_json`.

    Raises:
        OwnCodeError: If the encoding is of an own class that cannot be imported.
    """
    arguments = dict(values)
    kind = arguments.pop("kind")
    if not is_own(kind):
        return ENCODINGS[kind].from_json(arguments)
    where = f"the run's encoding, {kind}"
    found = load_own(kind, where)
    if not (isinstance(found, type) and issubclass(found, Encoding)):
        raise OwnCodeError(f"{where}: is no subclass of pf_jax.data.Encoding")
    try:
        return found.from_json(arguments)
    except Exception as error:  # It is the user's code.
        cause = " ".join(str(error).split())
        raise OwnCodeError(
            f"{where}: cannot be made from its fields ({type(error).__name__}: {cause}): "
            "from_json must take what to_json returned when it was saved"
        ) from error


def save_encoding(encoding: Encoding, path: pathlib.Path) -> None:
    """Writes an encoding as a JSON file, whole or not at all."""
    write_whole(path, json.dumps(encoding_to_json(encoding)) + "\n")


def load_encoding(path: pathlib.Path) -> Encoding:
    """Reads an encoding from a JSON file.

    Raises:
        UserError: If the file is missing or damaged, or the encoding's own class cannot be
            imported.
    """
    try:
        return encoding_from_json(json.loads(read_file(path)))
    except OwnCodeError:
        raise
    except Exception as error:  # A damaged file can have any values.
        raise UserError(
            f"{path}: cannot read the run's encoding: use another --workdir"
        ) from error
