"""Where the program starts, as `udppunch` and as `python -m udppunch` alike."""

import signal
import sys


def main() -> int:
    """Run the command line; the exit status."""
    # Until a command has its own handlers, Ctrl-C just ends it: also while modules load.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Whoever asks for the state of what has none, or none yet, is no reason to end.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        from udppunch import cli
    except ImportError as error:
        from udppunch.errors import report

        return report(error)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
