"""Load tests: concurrent streaming requests to a server that speaks OpenAI's completions API.

`load_test` sends a `Workload`, on schedule or as users who wait for their answers, and leaves
the record that every engine leaves, as far as a client can see it.
"""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "ClientLag": ".lag",
    "LoadTestResult": ".result",
    "Outcome": ".outcome",
    "load_test": ".run",
    "mixed_lengths": ".workloads",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
