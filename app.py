"""SFT Studio. ``python app.py`` serves the studio; ``python app.py --help`` lists what it does in a terminal."""

import os

from studio.cli import main
from studio.thread_waiting import settle_environment

if __name__ == "__main__":
    settle_environment(os.environ)  # of this process, before torch is loaded, and of those that it starts
    main()
