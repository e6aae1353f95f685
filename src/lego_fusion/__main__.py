"""``python -m lego_fusion`` is the command ``lego-fusion``."""

from .cli import main

if __name__ == "__main__":
    main()
