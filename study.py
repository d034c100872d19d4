"""Compares variants of a training over seeds: `python study.py --vary FIELD=A,B`.

Trains and evaluates each variant with each seed, in the workdir DIR/VARIANT/seed_K, and
writes DIR/study.json and DIR/report.html. Run again, it continues where it stopped.
"""

import pathlib
import sys

from absl import flags

import allocator  # noqa: F401  # Before anything starts a thread.
import stops  # noqa: F401  # Early, so that a request to stop during imports is answered.
from pf_jax import commands
from pf_jax.experiment import command_line

DEFAULT_CONFIG = str(pathlib.Path(__file__).parent / "configs" / "default.py")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study.", required=True)
SEEDS = flags.DEFINE_integer(
    "seeds", 6, "Number of seeds, from config.seed on; 6 are the least for p < 0.05."
)
VARY = flags.DEFINE_multi_string(
    "vary",
    [],
    "FIELD=A,B: values of a field. Given again, every combination is a variant; the first "
    "is the baseline. Values of a tuple are joined by plus signs.",
)
VARIANT = flags.DEFINE_multi_string(
    "variant",
    [],
    "'NAME: FIELD=VALUE FIELD=VALUE': one more variant. May be given again.",
)
SPLIT = flags.DEFINE_enum("split", "test", ["valid", "test"], "Split to compare on.")
JUDGE = flags.DEFINE_string(
    "judge",
    "auto",
    "Run that judges samples: its workdir; auto: trains one with teacher forcing and "
    "another seed; none.",
)
CRITIC = flags.DEFINE_bool("critic", True, "Train fresh critics.")
REVERSE = flags.DEFINE_bool("reverse", False, "Measure reverse cross-entropies.")
EQUAL_SECONDS = flags.DEFINE_bool(
    "equal_seconds",
    True,
    "Train the baseline also for as many seconds as the variants that take longer.",
)
PRIMARY = flags.DEFINE_string(
    "primary",
    None,
    "Measure that the report's first sentence is about. Default: the likelihood.",
)
JOBS = flags.DEFINE_integer("jobs", 1, "Number of processes that train at a time.")
TOGETHER = flags.DEFINE_bool(
    "together",
    False,
    "Train all seeds of a variant in one program: for small models on an accelerator.",
)


def main() -> None:
    """Checks the variants and runs the study."""
    # Imported here: a mistake in the flags is reported before other libraries are loaded.
    from pf_jax.study import conduct, plan

    conduct.run_study(
        flags.FLAGS.config,
        pathlib.Path(WORKDIR.value),
        plan.make_variants(VARY.value, VARIANT.value),
        plan.Study(
            SEEDS.value,
            SPLIT.value,
            JUDGE.value,
            CRITIC.value,
            REVERSE.value,
            EQUAL_SECONDS.value,
            PRIMARY.value,
            JOBS.value,
            commands.command("study", *sys.argv[1:]),
            TOGETHER.value,
        ),
    )


if __name__ == "__main__":
    command_line.run(main, default_config=DEFAULT_CONFIG)
