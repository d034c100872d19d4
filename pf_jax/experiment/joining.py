"""How the processes that train one run together find one another."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax

from pf_jax.errors import UserError

USER_ERROR_STATUS = 2

JOIN_SECONDS = 300.0
"""Time that processes wait for one another at the start."""

JAX_DEATH_SECONDS = 90
"""Time without a sign of life after which JAX ends all processes by itself.

JAX sends a sign every half of it, so a process that dies may have sent its last one that
long before: half of it has to be more than our own watch takes, some 30 seconds.
"""


class Address(NamedTuple):
    """Where a process stands among all of them, where no cluster says so.

    Attributes:
        coordinator: Host and port of process 0, "HOST:PORT"; None where the cluster's
            environment says all three.
        num_processes: Number of processes.
        process_id: Number of this process, from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def check_address(address: Address, is_distributed: bool) -> None:
    """Checks the flags that describe a process.

    Args:
        address: The three flags.
        is_distributed: Whether several processes train together.

    Raises:
        UserError: If one is missing or wrong.
    """
    given = {name: x for name, x in address._asdict().items() if x is not None}
    if not given:
        return
    name, value = next(iter(given.items()))
    if not is_distributed:
        raise UserError(
            f"--{name}={value}: has no effect without --distributed: add it"
        )
    missing = [f"--{name}" for name in address._fields if name not in given]
    if missing:
        raise UserError(
            f"--{name}={value}: needs {' and '.join(missing)} too; on a cluster that JAX "
            "knows leave out all three"
        )
    host, _, port = str(address.coordinator).rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(
            f"--coordinator={address.coordinator}: must be HOST:PORT, the host of process "
            "0 and a free port there, such as 10.0.0.1:1234"
        )
    num_processes, process_id = address.num_processes, address.process_id
    assert num_processes is not None and process_id is not None
    if num_processes < 1:
        raise UserError(f"--num_processes={num_processes}: must be at least 1")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id}: must be from 0 to {num_processes - 1}, since "
            f"--num_processes={num_processes}"
        )


def join(address: Address, seconds: float = JOIN_SECONDS) -> None:
    """Connects this process with the others.

    Args:
        address: Where this process stands among all.
        seconds: Time to wait for the others.

    Raises:
        UserError: If they do not find one another. Where processes are missing when the
            time is over, the program ends with a line and status 2.
    """
    if address.coordinator is not None:
        _check_reachable(address, seconds)
    # Processes of a CPU have no other way to add up their gradients.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    with _time_limit(seconds):
        try:
            jax.distributed.initialize(
                *address,
                initialization_timeout=int(seconds) + 60,
                heartbeat_timeout_seconds=JAX_DEATH_SECONDS,
                shutdown_timeout_seconds=JAX_DEATH_SECONDS,
            )
            # All processes take part in it, as in the start of a GPU or a TPU.
            jax.devices()
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--distributed: the processes did not find one another ({reason}): on a "
                "cluster that JAX does not know give --coordinator=HOST:PORT, "
                "--num_processes=N and --process_id=I"
            ) from error


def _check_reachable(address: Address, seconds: float) -> None:
    """Checks that process 0 can be reached: JAX ends with a stack trace where it cannot."""
    host, _, port = str(address.coordinator).rpartition(":")
    place = (host.strip("[]"), int(port))
    flag = f"--coordinator={address.coordinator}"
    try:
        socket.getaddrinfo(*place)
    except OSError as error:
        raise UserError(f"{flag}: no such host ({error.strerror})") from error
    if address.process_id == 0:
        _check_own_port(place, flag)
        return
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(place, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{flag}: process 0 does not answer there ({error}): start it on that "
                    "host, or name the host that it runs on"
                ) from error
        time.sleep(0.2)


def _check_own_port(place: tuple[str, int], flag: str) -> None:
    """Checks that process 0 runs where the others look for it."""
    with contextlib.closing(_unbound_socket()) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("", place[1]))
            listening.listen()
        except OSError as error:
            raise UserError(
                f"{flag}: cannot use that port ({error.strerror}): name another one"
            ) from error
        try:
            socket.create_connection(place, timeout=5).close()
        except OSError as error:
            raise UserError(
                f"{flag}: process 0 cannot be reached there ({error}): name the host that "
                "process 0 runs on"
            ) from error


def _unbound_socket() -> socket.socket:
    """A socket for IPv6 and IPv4; for IPv4 alone on a host without IPv6."""
    try:
        unbound = socket.socket(socket.AF_INET6)
    except OSError:
        return socket.socket(socket.AF_INET)
    unbound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return unbound


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Ends the process with one line where processes are missing for too long."""

    def end() -> None:
        line = (
            f"error: --distributed: not all processes have started within {seconds:.0f} "
            "seconds: start as many as --num_processes says, each with its own "
            "--process_id\n"
        )
        os.write(2, line.encode())
        os._exit(USER_ERROR_STATUS)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
