"""Compares runs on one page: `python report.py RUN... --out report.html`.

RUN is the folder of an evaluated run, or of a study. Runs that differ in their seeds alone
are one variant. The page is one HTML file that needs no network.
"""

from collections.abc import Sequence

from absl import flags

from pf_jax.experiment import command_line

OUT = flags.DEFINE_string("out", "report.html", "HTML file to write.")
BASELINE = flags.DEFINE_string(
    "baseline",
    None,
    "Variant to compare with. Default: the study's, else teacher forcing.",
)
PRIMARY = flags.DEFINE_string(
    "primary",
    None,
    "Measure that the answer is about. Default: the study's, else the likelihood.",
)
TITLE = flags.DEFINE_string("title", None, "Title of the page.")


def main(folders: Sequence[str]) -> None:
    """Writes the page."""
    # Imported here: a mistake in the flags is reported before matplotlib is loaded.
    from pf_jax.study import selection

    selection.report(
        folders,
        OUT.value,
        baseline=BASELINE.value,
        primary=PRIMARY.value,
        title=TITLE.value,
    )
    print(f"written to {OUT.value}")


if __name__ == "__main__":
    command_line.run(main, arguments="RUN")
