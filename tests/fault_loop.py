"""``python -m tests.fault_loop`` is ``python -m tests.faults.fault_loop``."""

from tests.faults.fault_loop import main

if __name__ == "__main__":
    main()
