"""Several processes that share the ports of one daemon, and the one that starts them.

``supervisor`` binds the ports and starts the workers, each of which is a daemon as it is alone, but that it listens
on what it was handed, and has no port for operators: these ask the supervisor, which asks the workers (``front``).
"""
