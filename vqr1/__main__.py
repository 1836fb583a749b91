"""`python -m vqr1`: the program `vqr1`."""

from vqr1.cli.main import main

if __name__ == "__main__":
    main()
