"""Runs wrong inputs, each in a process of its own, and prints what came of them.

    python tests/fuzz_worker.py SEED START STOP STEP [--slow] [--train]

One line of JSON a case. The processes are forked from one that has imported everything, so
that a case takes a fraction of a second, but for slow ones, which are left out without
`--slow`. What is accepted ends where it would be compiled; with `--train` it is trained.
"""

import itertools
import json
import os
import pathlib
import runpy
import shutil
import signal
import sys
import tempfile
import time
import warnings

# Programs that are read from the cache of compiled ones would be remarked upon.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
MOST_SECONDS, MOST_BYTES = 60, 4e9
MOST_UPDATES = 1000
"""Largest number of updates of a case that is trained."""

SMALL_MACHINE = 3e9
"""Memory that the programs believe the machine has, so that it is tested everywhere."""


def main() -> None:
    seed, start, stop, step = map(int, sys.argv[1:5])
    # Nothing has started a thread yet that a forked process would wait for.
    warnings.filterwarnings("ignore", ".*fork.*")
    from fuzz_cases import cases

    _import_everything()
    does_train = "--train" in sys.argv
    programs = tempfile.mkdtemp()
    for case in itertools.islice(cases(seed), start, stop, step):
        if case.is_slow and "--slow" not in sys.argv:
            continue
        outer = pathlib.Path(tempfile.mkdtemp())
        # So deep that `../..` is still inside.
        here = outer / "a" / "b" / "c"
        here.mkdir(parents=True)
        try:
            result = _result(case, here, programs if does_train else None)
        finally:
            shutil.rmtree(outer)
        print(json.dumps({"name": case.name, **result}), flush=True)
    shutil.rmtree(programs)


def _import_everything() -> None:
    import scipy.signal  # noqa: F401

    import pf_jax.experiment.checkpoint
    import pf_jax.experiment.evaluation
    import pf_jax.experiment.loop
    import pf_jax.study.conduct
    import pf_jax.study.selection  # noqa: F401


def _result(case, here: pathlib.Path, programs: str | None) -> dict:
    """What a case ends with."""
    arguments = [*case.arguments, *case.prepare(here)]
    arguments = [argument.replace("{here}", str(here)) for argument in arguments]
    output = here / "output"
    output.mkdir()
    there = set(here.rglob("*"))
    before = time.monotonic()
    child = os.fork()
    if child == 0:
        _run(case, arguments, here, programs)
    status, usage, largest, ending = _wait(child)
    found = here / "output" / "accepted"
    return {
        "status": os.waitstatus_to_exitcode(status),
        "ending": ending,
        "seconds": round(time.monotonic() - before, 2),
        "megabytes": round(max(largest, usage.ru_maxrss * 1024) / 1e6),
        "stdout": (output / "1").read_text(errors="replace")[:2000],
        "stderr": (output / "2").read_text(errors="replace")[:10_000],
        "accepted": json.loads(found.read_text()) if found.exists() else None,
        "written": sorted(
            str(path.relative_to(here))
            for path in set(here.rglob("*")) - there
            if output not in path.parents
        ),
        "arguments": arguments,
    }


def _wait(child: int) -> tuple[int, object, int, str]:
    """Waits for a process, which is ended where it takes too long or too much."""
    largest, ending, end = 0, "", time.monotonic() + MOST_SECONDS
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return status, usage, largest, ending
        try:
            pages = int(pathlib.Path(f"/proc/{child}/statm").read_text().split()[1])
            largest = max(largest, pages * os.sysconf("SC_PAGE_SIZE"))
        except (OSError, IndexError):
            pass
        if time.monotonic() > end or largest > MOST_BYTES:
            ending = "too long" if largest <= MOST_BYTES else "too large"
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)


def _run(case, arguments: list[str], here: pathlib.Path, programs: str | None) -> None:
    """Runs a program as if it had been typed; never returns."""
    code = 1
    try:
        os.setsid()
        for number in (1, 2):
            file = os.open(here / "output" / str(number), os.O_WRONLY | os.O_CREAT)
            os.dup2(file, number)
        os.chdir(here)
        import jax

        for name, value in case.environment:
            jax.config.update(name, value)
        _stop_where_it_compiles(here / "output" / "accepted", programs)
        program = str(ROOT / f"{case.program}.py")
        sys.argv = [program, *arguments]
        runpy.run_path(program, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def _stop_where_it_compiles(found: pathlib.Path, programs: str | None) -> None:
    """Replaces what takes long in the programs."""
    from pf_jax.experiment import build, evaluation, first_state, loop, memory
    from pf_jax.rules import flat
    from pf_jax.study import conduct, selection

    train, check_memory = loop._train, first_state.check_memory

    def accept_model(experiment):
        check_memory(experiment)
        found.write_text(json.dumps({"fields": flat(experiment.config.to_dict())}))
        raise SystemExit(0)

    def accept_training(start, *rest):
        fields = flat(start.experiment.config.to_dict())
        found.write_text(json.dumps({"fields": fields}))
        if start.experiment.config.train.num_steps > MOST_UPDATES:
            raise SystemExit(0)  # Right, and it would train for longer than a case may.
        import jax
        import numpy as np

        params = start.state.generator.params
        before = [np.array(leaf) for leaf in jax.tree.leaves(params)]
        after = train(start, *rest)
        moved = any(
            np.any(old != np.asarray(new))
            for old, new in zip(
                before, jax.tree.leaves(after.generator.params), strict=True
            )
        )
        found.write_text(json.dumps({"fields": fields, "moved": moved}))
        return after

    def accept(*arguments, **keywords):
        found.write_text("{}")
        raise SystemExit(0)

    if programs is None:
        build._check_rows = lambda *arguments: None
        first_state.check_memory = accept_model
    loop._train = accept_training
    conduct._run = evaluation._evaluate = accept
    write_report = selection.write_report

    def accept_report(*arguments, **keywords):
        if programs is None:
            accept()
        write_report(*arguments, **keywords)
        found.write_text("{}")

    selection.write_report = accept_report
    memory.host_bytes = lambda: SMALL_MACHINE
    if programs is not None:
        import jax

        jax.config.update("jax_compilation_cache_dir", programs)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


if __name__ == "__main__":
    main()
