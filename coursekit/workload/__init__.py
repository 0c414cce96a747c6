"""Workloads: which requests arrive when, how long they are, and what hands them to an engine.

A source has three members. `next_arrival_s`: seconds, `math.inf` while none is due.
`take(now_s)`: the requests that have arrived by then. `finished(request, now_s)`: told of each
request that is done, so that a closed loop can send the next.
"""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "Workload": ".workload",
    "OpenSource": ".source",
    "ClosedLoop": ".closed_loop",
    "read_workload": ".readers",
    "poisson": ".arrivals",
    "gamma": ".arrivals",
    "constant": ".arrivals",
    "fixed": ".lengths",
    "lognormal": ".lengths",
    "module_mix": ".lengths",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
