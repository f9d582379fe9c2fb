"""``python -m benchmarks``: every goal, then the dead reader."""

from benchmarks import dead_reader, run

if __name__ == "__main__":
    if run.main():
        dead_reader.main()
