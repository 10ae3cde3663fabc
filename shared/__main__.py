"""``python -m shared``: the course's program; see `shared.command_line`."""

from shared.command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
