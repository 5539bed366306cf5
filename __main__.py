"""``python -m stepsmith`` is the ``stepsmith`` command."""

from .cli import main

if __name__ == "__main__":
    main()
