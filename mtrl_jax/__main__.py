"""The command ``mtrl``, also as ``python -m mtrl_jax``: from its first import on."""

import sys


def main() -> None:
    """Run the command; Ctrl-C while it is imported ends it as it does later on."""
    try:
        from mtrl_jax import cli
    except KeyboardInterrupt:
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
