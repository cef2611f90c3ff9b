"""How the embedded model is trained anew: only the command line needs this."""
