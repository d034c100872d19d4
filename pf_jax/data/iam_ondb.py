"""Online handwriting: the IAM On-Line Handwriting Database, in its publisher's files.

Liwicki and Bunke, "IAM-OnDB - an On-Line English Sentence Database Acquired from
Handwritten Text on a Whiteboard" (2005). One folder has the unpacked archives:

    lineStrokes/a01/a01-000/a01-000u-01.xml     a line of writing
    ascii/a01/a01-000/a01-000u.txt              the text of its form
    trainset.txt, testset_v.txt, testset_t.txt, testset_f.txt     names of forms

The four split files may also be in `task1/`, as in the publisher's archive of them.
"""

import pathlib
import re
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from pf_jax.data.cache import cached
from pf_jax.errors import UserError
from pf_jax.reading import existing, read_file

SPLIT_FILES = {
    "train": ("trainset.txt", "testset_t.txt"),
    "valid": ("testset_v.txt",),
    "test": ("testset_f.txt",),
}
"""The split files of each split: 775 + 216, 192 and 544 forms.

Graves (2013, arXiv 1308.0850, section 4.1) also trained on the test set, and stopped by the
smaller validation set, which is `valid` here. Here no run trains on the test set.
"""

_FORM = re.compile(r"((\w+)-\d+)[a-z]?", re.ASCII)


class Line(NamedTuple):
    """A line of writing.

    Attributes:
        strokes: Points `(dx, dy, pen)`, `[N, 3]` float32, in the whiteboard's units with y
            downward; pen 1 at the last point of a stroke. The first offset is (0, 0),
            since the position on the whiteboard does not matter.
        text: Transcription of the line; empty where there is none.
        name: Name of the line, such as `a01-000u-01`.
    """

    strokes: np.ndarray
    text: str
    name: str


def iam_ondb(path: str) -> dict[str, list[np.ndarray]]:
    """The strokes of the lines of each split, `[N, 3]` each: see `Line`.

    They are kept in the user's cache folder: twelve thousand XML files take half a minute.

    Raises:
        UserError: If the folder is incomplete or damaged: see `iam_ondb_lines`.
    """
    folder = existing(path)

    def parse() -> dict[str, np.ndarray]:
        arrays = {}
        for split, lines in iam_ondb_lines(path).items():
            strokes = [line.strokes for line in lines]
            arrays[split] = np.concatenate(strokes)
            arrays[f"{split}_lengths"] = np.array([len(part) for part in strokes])
        return arrays

    arrays = cached("iam_ondb", lambda: _files(folder), parse)
    return {
        split: np.split(arrays[split], np.cumsum(arrays[f"{split}_lengths"])[:-1])
        for split in SPLIT_FILES
    }


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files that the strokes depend on."""
    lists = [
        file
        for names in SPLIT_FILES.values()
        for name in names
        for file in (folder / name, folder / "task1" / name)
        if file.is_file()
    ]
    # As the lines of a form are found: through links to folders, too.
    return lists + sorted((folder / "lineStrokes").glob("*/*/*.xml"))


def iam_ondb_lines(path: str) -> dict[str, list[Line]]:
    """The lines of each split, in the order of its files: see `SPLIT_FILES`.

    Raises:
        UserError: If a file is missing or damaged, a form is named twice or has no lines,
            or a line has no points.
    """
    folder = existing(path)
    listed = _listed_forms(folder)
    return {
        split: [
            line
            for name in names
            for form in listed[name]
            for line in _form_lines(folder, form, name)
        ]
        for split, names in SPLIT_FILES.items()
    }


def _listed_forms(folder: pathlib.Path) -> dict[str, list[str]]:
    """The forms that each split file names; no form is named twice."""
    listed: dict[str, list[str]] = {}
    first_named: dict[str, str] = {}
    for name in (name for names in SPLIT_FILES.values() for name in names):
        listed[name] = _read_forms(folder, name)
        for form in listed[name]:
            if form in first_named:
                raise UserError(
                    f"{folder / name}: {form} is already in {first_named[form]}: a form "
                    "must be named once, or splits overlap: remove one of the two"
                )
            first_named[form] = name
    return listed


def _read_forms(folder: pathlib.Path, name: str) -> list[str]:
    file = next(
        (file for file in (folder / name, folder / "task1" / name) if file.is_file()),
        None,
    )
    if file is None or not (folder / "lineStrokes").is_dir():
        raise UserError(
            f"{folder}: no {'lineStrokes' if file else name} there: give the folder with "
            f"lineStrokes/, ascii/ and the split files of IAM-OnDB, such as {name}"
        )
    forms = read_file(file).decode("latin-1").split()
    if not forms:
        raise UserError(
            f"{file}: empty: must name forms such as a01-000u, one per line"
        )
    for form in forms:
        if not _FORM.fullmatch(form):
            raise UserError(
                f"{file}: {form[:40]!r} is not the name of a form: must have names such "
                "as a01-000u, one per line"
            )
    return forms


def _form_lines(folder: pathlib.Path, form: str, split_file: str) -> list[Line]:
    """The lines of a form, in the order of their numbers."""
    match = _FORM.fullmatch(form)
    assert match
    inside = pathlib.Path(match[2], match[1])
    files = sorted((folder / "lineStrokes" / inside).glob(f"{form}-[0-9][0-9].xml"))
    if not files:
        raise UserError(
            f"{folder / 'lineStrokes' / inside}: {split_file} names {form}, but there is "
            f"no {form}-01.xml or later one: unpack lineStrokes-all.tar.gz again, or "
            f"remove {form} from {split_file}"
        )
    texts = _read_texts(folder / "ascii" / inside / f"{form}.txt")
    lines = []
    for file in files:
        # Some lines are missing; the others keep their numbers, which index the texts.
        number = int(file.stem[-2:]) - 1
        text = texts[number] if 0 <= number < len(texts) else ""
        lines.append(Line(read_strokes(file), text, file.stem))
    return lines


def _read_texts(file: pathlib.Path) -> list[str]:
    """The lines of section `CSR:`, the text as written; `OCR:` is the text to copy."""
    if not file.is_file():
        return []
    section = read_file(file).decode("latin-1").partition("CSR:")[2]
    return [line.strip() for line in section.splitlines() if line.strip()]


def read_strokes(file: pathlib.Path) -> np.ndarray:
    """The strokes of one XML file, `[N, 3]`: see `Line`.

    Raises:
        UserError: If the file is damaged, is not a line of IAM-OnDB, or has no points or
            wrong ones.
    """
    again = "unpack lineStrokes-all.tar.gz again"
    content = read_file(file)
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise UserError(f"{file}: damaged XML ({error}): {again}") from error
    stroke_set = root.find("StrokeSet")
    if root.tag != "WhiteboardCaptureSession" or stroke_set is None:
        raise UserError(
            f"{file}: not a line of IAM-OnDB (<{root.tag}>): must be a "
            f"<WhiteboardCaptureSession> with a <StrokeSet>: {again}"
        )
    strokes = [list(stroke.iter("Point")) for stroke in stroke_set.iter("Stroke")]
    strokes = [stroke for stroke in strokes if stroke]
    if not strokes:
        raise UserError(f"{file}: no points: must have at least one: {again}")
    try:
        # A missing number is read as NaN, and is reported as not finite below.
        points = np.array(
            [
                (float(point.get("x", "nan")), float(point.get("y", "nan")))
                for stroke in strokes
                for point in stroke
            ]
        )
    except ValueError as error:
        raise UserError(f"{file}: {error}: x and y must be numbers: {again}") from error
    if not np.all(np.isfinite(points)):
        number = int(np.argmin(np.all(np.isfinite(points), axis=1)))
        raise UserError(
            f"{file}: point {number} has x and y {points[number]}: must be finite: {again}"
        )
    return _offsets(points, [len(stroke) for stroke in strokes])


def _offsets(points: np.ndarray, lengths: list[int]) -> np.ndarray:
    """Absolute points `[N, 2]` of strokes of these lengths as offsets, `[N, 3]` float32."""
    raw = np.zeros((len(points), 3), np.float32)
    raw[:, :2] = np.diff(points, axis=0, prepend=points[:1])
    raw[np.cumsum(lengths) - 1, 2] = 1
    return raw
