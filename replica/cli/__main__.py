"""``python -m replica.cli`` is ``synod``."""

from replica.cli import main

if __name__ == "__main__":
    main()
