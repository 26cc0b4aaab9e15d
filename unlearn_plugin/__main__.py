"""``python -m unlearn_plugin`` is the command ``unlearn``."""

from unlearn_plugin.cli import main

if __name__ == "__main__":
    main()
