"""People rate pairs of samples of two runs: `python rate.py make|serve|score`.

make --a RUN --b RUN --out DIR   writes DIR/page.html and DIR/key.json
serve --dir DIR                  serves the page at 127.0.0.1 and stores judgements
score --dir DIR [FILE...]        scores stored and downloaded judgements
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from pf_jax.errors import UserError
from pf_jax.experiment import command_line

A = flags.DEFINE_string("a", None, "make: workdir of run A.")
B = flags.DEFINE_string("b", None, "make: workdir of run B.")
OUT = flags.DEFINE_string("out", None, "make: folder to write, new or empty.")
PAIRS = flags.DEFINE_integer("pairs", 24, "make: number of pairs of samples.")
REPEATS = flags.DEFINE_integer(
    "repeats", None, "make: number of pairs shown twice. Default: a sixth of the pairs."
)
CATCHES = flags.DEFINE_integer(
    "catches",
    None,
    "make: number of pairs of real data and noise. Default: a quarter of the pairs, at "
    "least 4.",
)
RATERS = flags.DEFINE_integer(
    "raters", 0, "make: number of raters, who each get a code; 0: anyone may rate."
)
MAX_FAILED_CATCHES = flags.DEFINE_float(
    "max_failed_catches",
    0.25,
    "make: raters who prefer noise in a larger share of catch pairs do not count.",
)
MIN_ANSWERED = flags.DEFINE_float(
    "min_answered", 0.5, "make: raters who answer a smaller share do not count."
)
SEED = flags.DEFINE_integer("seed", 0, "make: seed of the samples of both runs.")
SPLIT = flags.DEFINE_enum(
    "split", "valid", ["valid", "test"], "make: split of the real data."
)
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "make: checkpoint of both runs."
)
SAMPLE_LENGTH = flags.DEFINE_integer(
    "sample_length", None, "make: steps of each sample; as for evaluate.py."
)
TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "make: temperature of sampling.")
PROMPT = flags.DEFINE_string("prompt", "", "make: text that every sample starts with.")
BIAS = flags.DEFINE_float("bias", 0.0, "make: bias of pen strokes.")
DIR = flags.DEFINE_string("dir", None, "serve, score: folder that make wrote.")
PORT = flags.DEFINE_integer("port", 8000, "serve: port; 0 for any that is free.")


def make() -> None:
    """Writes a page and its key."""
    # Imported here: a mistake in the flags is reported before orbax is loaded.
    from pf_jax.analysis.present import Sampling
    from pf_jax.rating import making

    making.make(
        _folder(A),
        _folder(B),
        _folder(OUT),
        making.Plan(
            PAIRS.value,
            REPEATS.value,
            CATCHES.value,
            RATERS.value,
            MAX_FAILED_CATCHES.value,
            MIN_ANSWERED.value,
            SEED.value,
            SPLIT.value,
            CHECKPOINT.value,
        ),
        Sampling(
            None, SAMPLE_LENGTH.value, TEMPERATURE.value, PROMPT.value, BIAS.value
        ),
    )


def serve() -> None:
    """Serves the page until Ctrl-C."""
    from pf_jax.rating import server

    server.serve(_folder(DIR), PORT.value)


def score(*files: str) -> None:
    """Scores judgements."""
    from pf_jax.rating import scoring

    scoring.score(_folder(DIR), files)


SAMPLING = (SAMPLE_LENGTH, TEMPERATURE, PROMPT, BIAS, SEED, SPLIT, CHECKPOINT)
RULE = (RATERS, MAX_FAILED_CATCHES, MIN_ANSWERED)
COMMANDS = {
    "make": (make, (A, B, OUT, PAIRS, REPEATS, CATCHES, *SAMPLING, *RULE)),
    "serve": (serve, (DIR, PORT)),
    "score": (score, (DIR,)),
}
"""Each command's function, and the flags that it reads."""


def main(arguments: Sequence[str]) -> None:
    """Checks that command, flags and files belong together, and runs the command."""
    name, *files = arguments
    if name not in COMMANDS:
        raise UserError(f"{name}: is no command: give make, serve or score")
    command, own = COMMANDS[name]
    names = {flag.name for flag in own}
    for _, others in COMMANDS.values():
        for flag in others:
            if flag.present and flag.name not in names:
                raise UserError(
                    f"--{flag.name}: is not a flag of rate.py {name}: leave it out"
                )
    if files and command is not score:
        raise UserError(
            f"unexpected argument {files[0]!r}: rate.py {name} takes no files"
        )
    command(*files)


def _folder(flag: flags.FlagHolder) -> pathlib.Path:
    if not flag.value:
        raise UserError(f"--{flag.name} is missing: give --{flag.name}=FOLDER")
    return pathlib.Path(flag.value)


if __name__ == "__main__":
    command_line.run(main, arguments="command (make, serve or score)")
