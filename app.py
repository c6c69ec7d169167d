"""SFT Studio. ``python app.py`` serves the studio; ``python app.py --help`` lists what it does in a terminal."""

import os

from studio.thread_waiting import settle_environment
from studio.utf8 import ensure_utf8

if __name__ == "__main__":
    ensure_utf8()  # it may start this program anew, so nothing is loaded before
    settle_environment(os.environ)  # of this process, before torch is loaded, and of those that it starts
    from studio.cli.main import main

    main()
