"""``python -m blackbox_delta``: the command line, where no scripts are on the path."""

from blackbox_delta.cli import main

if __name__ == "__main__":
    main()
