"""Prints the page of all metrics: ``python docs/metrics_page.py >docs/reference/metrics.rst``."""

from itertools import groupby

from broker.observe.catalog import CATALOG, LABEL, LABELS, LIBRARY, MAX, Metric
from broker.observe.metrics import Sampler

BEGINNING = f"""Metrics
=======

After this page you know what each metric of ``/metrics`` says.
How to read them, and what to watch: :doc:`../operations/metrics`.

.. Written by docs/metrics_page.py from broker/observe/catalog.py.

All begin with ``txbroker_``, but for those of the process and of Python.
Seconds and bytes are the units; counters end in ``_total``.
Every metric has its samples from the start, at 0 where it counts.

Labels never hold what a client chooses, so that their number has a bound:

{{labels}}

Of what happens with every message one in a few is timed, and counts for all since the one before.
So the ``_count`` of such a histogram is about that of all, and its quantiles are those of a sample.
The first {Sampler.all_timed} of each are all timed, and so is every call that fails.

With :envvar:`TXBROKER_PROCESSES` the values of all workers are added up, unless something else stands here.
"""
ACROSS = {MAX: "of several workers the greatest", LABEL: "of several workers with the label worker"}
ENDING = """Of dialects
-----------

A dialect may have metrics of its own, ``txbroker_<dialect>_<name>``: :doc:`../writing-a-plugin`.

Of the process
--------------

From the library ``prometheus_client``:

{library}
"""


def page() -> str:
    """Return the page as reStructuredText."""
    labels = "\n".join(f"* ``{name}``: {text}." for name, text in LABELS.items())
    parts = [BEGINNING.format(labels=labels)]
    for group, metrics in groupby(CATALOG.values(), key=lambda metric: metric.group):
        parts.append("\n".join([group, "-" * len(group), "", *map(_entry, metrics)]))
    parts.append(ENDING.format(library=", ".join(f"``{name}``" for name in LIBRARY) + "."))
    return "\n".join(parts)


def _entry(metric: Metric) -> str:
    labels = f" {{{', '.join(metric.labels)}}}" if metric.labels else ""
    more = "".join(f"; {text}" for text in (metric.when, ACROSS.get(metric.across)) if text)
    return f"``{metric.full_name}{labels}``\n   *{metric.kind}{more}.*\n   {metric.help}\n"


if __name__ == "__main__":
    print(page(), end="")
