"""`python -m raydistill` does what `raydistill` does."""

from raydistill.cli.main import main

if __name__ == "__main__":
    main()
