"""The command line: arguments, printing, exit codes. Results go to stdout, everything else to stderr.

Exit codes: 0 done; 1 a run that began and failed; 2 a mistake of the caller; 130 stopped by Ctrl-C or SIGTERM.
"""

from zowarmup.cli.app import main

__all__ = ["main"]
