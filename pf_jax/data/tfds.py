"""Texts through TensorFlow Datasets, which is imported where it is used."""

from pf_jax.errors import UserError

_SPLITS = {"train": "train", "valid": "validation", "test": "test"}


def tiny_shakespeare(path: str) -> dict[str, str]:
    """Tiny Shakespeare, in the splits of TensorFlow Datasets.

    Reading a prepared data set needs no TensorFlow; preparing one needs the extra
    `pf_jax[tfds]` and a network.

    Args:
        path: The `data_dir` of TFDS; its default if empty.

    Raises:
        UserError: If it cannot be read or prepared.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(
            "tiny_shakespeare", data_dir=path or None, file_format="array_record"
        )
        builder.download_and_prepare()
        source = builder.as_data_source()
        return {
            ours: source[theirs][0]["text"].decode("utf-8")
            for ours, theirs in _SPLITS.items()
        }
    except Exception as error:  # Each stage of TFDS has its own kinds.
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"tiny_shakespeare: TFDS cannot prepare it ({cause[0]}): install "
            "pf_jax[tfds] and connect to a network, or give the text itself with "
            "--config.data.name=text --config.data.path=FILE"
        ) from error
