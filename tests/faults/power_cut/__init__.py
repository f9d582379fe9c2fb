"""A power cut, replayed: ``python -m tests.faults.power_cut 300``.

``recorder.c`` records what a daemon writes and syncs below its state directory while clients work, and
while it stops, is killed and starts again; ``disk`` makes of that what may be on a disk that loses power
at some moment; and a store, or a daemon, that starts on such an image must have everything that was
acknowledged by then.  Read on: ``recording``, ``disk``, ``promises``, ``load``, ``image``, ``replay``.
"""
