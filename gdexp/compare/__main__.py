"""`python -m gdexp.compare`."""

from gdexp.compare import main

main()
