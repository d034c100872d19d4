"""Runs train.py and sends itself a signal at a chosen moment.

    python tests/stopped_run.py MOMENT COUNT SIGNAL FLAGS...

The signal comes when the moment is reached for the COUNT-th time.
"""

import os
import pathlib
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import stops  # noqa: E402, F401
from pf_jax.experiment import (  # noqa: E402
    checkpoint,  # noqa: E402
    feed,
    first_state,
    pace,
    run_log,
    validation,
)


def main() -> None:
    moment, count, name, *flags = sys.argv[1:]
    reached = [0]

    def signal_before(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            reached[0] += 1
            if reached[0] == int(count):
                os.kill(os.getpid(), getattr(signal, name))
            return function(*arguments, **keywords)

        return call

    def signal_after(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            result = function(*arguments, **keywords)
            signal_before(lambda: None)()
            return result

        return call

    owner, function, wrap = {
        "reading": (first_state, "load_experiment", signal_before),
        "compiling": (feed, "make_updates", signal_before),
        "updating": (pace.Pace, "add", signal_before),
        "logged": (run_log.RunLog, "_write", signal_after),
        "validating": (validation, "_eval_segment", signal_before),
        "saving": (checkpoint.Checkpoints, "save", signal_after),
        "renaming": (os, "rename", signal_before),
    }[moment]
    setattr(owner, function, wrap(getattr(owner, function)))
    sys.argv = [str(ROOT / "train.py"), *flags]
    runpy.run_path(sys.argv[0], run_name="__main__")


main()
