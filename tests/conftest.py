import os

# Read when JAX starts, so set before any test module imports it: a small machine with
# several devices stands in for a large one.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()

# Most of the tests' time is XLA's, and what they compare needs no fast code. Set to 0 for
# the code that users run; `.ci/run` does so on one of its two Pythons.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
