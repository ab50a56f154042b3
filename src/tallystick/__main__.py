"""`python -m tallystick` is the command line; the supervisor starts services by it."""

from tallystick.cli import main

if __name__ == "__main__":
    main()
