"""`python -m jaxmeta` is the command `jaxmeta`."""

from jaxmeta.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
