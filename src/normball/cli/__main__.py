"""`python -m normball.cli`, the same as `normball`."""

from normball.cli import main

main()
