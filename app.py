"""SFT Studio. ``python app.py`` serves the studio; ``python app.py --help`` lists what it does in a terminal."""

from studio.cli import main

if __name__ == "__main__":
    main()
