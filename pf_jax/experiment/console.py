"""Output that cannot end a run: what cannot be printed is left out."""

import contextlib
import io
import os
import select
import sys
from typing import Any, BinaryIO, TextIO, cast

STREAMS = {"stdout": 1, "stderr": 2}
"""File descriptor of each output stream in `sys`."""


class _UnfailingFile(io.FileIO):
    """A file descriptor that goes on as the null device when it cannot be written to."""

    def write(self, data: Any, /) -> int:
        """Writes all bytes, or drops the rest; never raises an `OSError`."""
        rest = memoryview(data).cast("B")
        size = rest.nbytes
        try:
            while rest:
                written = super().write(rest)
                if written is None:  # A non-blocking descriptor that is busy.
                    select.select([], [self.fileno()], [])
                rest = rest[written or 0 :]
        except OSError:
            _redirect_to_null(self.fileno())
        return size


def _redirect_to_null(number: int) -> None:
    """Makes a file descriptor the null device, for libraries in C too."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)


def protect_output() -> None:
    """Makes standard output and standard error safe to print to.

    Characters that the encoding lacks are printed as escapes. After a closed pipe, a full
    disk or a closed terminal nothing more is printed there, and the run goes on. Streams
    that somebody else has replaced, such as a test, are left as they are.
    """
    for number in (0, *STREAMS.values()):
        # Otherwise the next file that is opened would get this number, and with it
        # whatever libraries in C print.
        try:
            os.fstat(number)
        except OSError:
            _redirect_to_null(number)
    for name, number in STREAMS.items():
        stream = getattr(sys, name)
        if stream is None or stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, unfailing_stream(number, stream))


def unfailing_stream(number: int, stream: TextIO | None) -> io.TextIOWrapper:
    """A text stream on a descriptor that prints what can be printed.

    Args:
        number: File descriptor to write to; closing the stream leaves it open.
        stream: Stream so far, whose encoding and buffering are kept; None where it was
            closed before the program started.
    """
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    kept = stream if isinstance(stream, io.TextIOWrapper) else None
    file = _UnfailingFile(number, "w", closefd=False)
    # `write_through` (PYTHONUNBUFFERED) concerns the text layer: a `BufferedWriter` below
    # it would keep the text until a flush.
    is_unbuffered = kept is not None and kept.write_through
    return io.TextIOWrapper(
        cast(BinaryIO, file) if is_unbuffered else io.BufferedWriter(file),
        encoding=kept.encoding if kept else "utf-8",
        errors="backslashreplace",
        line_buffering=kept.line_buffering if kept else True,
        write_through=kept.write_through if kept else False,
    )
