"""`python -m mvfa_core` is the command `mvfa`."""

from mvfa_core.cli import app

app()
