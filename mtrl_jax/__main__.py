"""``python -m mtrl_jax`` is ``mtrl``."""

from mtrl_jax import cli

if __name__ == "__main__":
    cli.main()
