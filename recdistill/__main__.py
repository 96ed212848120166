"""`python -m recdistill` is the command `recdistill`."""

from recdistill.cli import main

if __name__ == "__main__":
    main()
