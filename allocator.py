"""Memory that arrays leave stays with the process, for the arrays of the next update.

On a CPU, XLA asks the C library for an update's arrays anew each time. glibc gives large
ones back to the system once they are free, and the system clears every page that it hands
out again, which is up to a fifth of a joint update. Importing this module is enough.
Programs import it before anything starts a thread: threads have arenas of their own, of
which glibc gives memory back whatever it is told. The price is a process that never
shrinks, and that grows up to 40 % larger, since free memory is in pieces.

Other C libraries are left alone, and so is a glibc that the environment sets already, as
`MALLOC_ARENA_MAX=8` or `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` does (mallopt(3)).
"""

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # The numbers of `malloc.h`.
_NEVER = -1
_VARIABLES = ("MALLOC_ARENA_", "MALLOC_MMAP_", "MALLOC_TOP_PAD_", "MALLOC_TRIM_")


def _is_set() -> bool:
    return "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith(_VARIABLES) for name in os.environ
    )


def _keep_memory() -> None:
    is_glibc = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
    if not is_glibc or _is_set():
        return
    library = ctypes.CDLL(None)
    library.mallopt(_ARENA_MAX, 1)
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)


_keep_memory()
