"""TensorBoard's event file, written by the thread that trains.

tensorboardX's own `SummaryWriter` writes in a thread that a full disk ends, and then waits
for that thread for ever.
"""

import io
import pathlib
import struct
import time
import wave
from typing import Any

from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2
from tensorboardX.proto.summary_pb2 import Summary

from pf_jax.files import writing


class EventFile:
    """A new event file in a folder.

    Args:
        folder: Folder of the file.
        first_step: Step at which the run continues, 0 for a new run: TensorBoard drops
            later events of earlier files.

    Raises:
        WriteError: If the file cannot be written; likewise in all methods.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        self._path = folder / "events"
        with writing(self._path, io.DEFAULT_BUFFER_SIZE):
            self._writer = event_file_writer.EventsWriter(str(self._path))
        status = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(first_step + 1, session_log=status)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Adds a number."""
        self._write(step, summary=summary.scalar(name, value))

    def add_text(self, name: str, text: str, step: int) -> None:
        """Adds a text."""
        self._write(step, summary=summary.text(name, text))

    def add_picture(self, name: str, png: bytes, step: int) -> None:
        """Adds the content of a PNG file."""
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(
            width=width, height=height, colorspace=4, encoded_image_string=png
        )
        self._write(step, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def add_sound(self, name: str, wav: bytes, step: int) -> None:
        """Adds the content of a wav file of one channel."""
        with wave.open(io.BytesIO(wav)) as file:
            audio = Summary.Audio(
                sample_rate=file.getframerate(),
                num_channels=1,
                length_frames=file.getnframes(),
                encoded_audio_string=wav,
                content_type="audio/wav",
            )
        self._write(step, summary=Summary(value=[Summary.Value(tag=name, audio=audio)]))

    def _write(self, step: int, **content: Any) -> None:
        event = event_pb2.Event(wall_time=time.time(), step=step, **content)
        with writing(self._path, event.ByteSize()):
            self._writer.write_event(event)

    def flush(self) -> None:
        """Waits until the events have reached the disk."""
        with writing(self._path, io.DEFAULT_BUFFER_SIZE):
            self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        with writing(self._path, io.DEFAULT_BUFFER_SIZE):
            self._writer.close()
