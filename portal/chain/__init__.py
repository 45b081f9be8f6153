"""The only package that talks to a node or touches key material."""

import sys

import py_ecc  # noqa: F401  (imported here first, by way of web3, it would raise the limit again later)

# py_ecc lets Python recurse 100,000 deep, at which the C stack of a process ends: one deeply nested JSON body would
# then kill it, where it is a RecursionError now.
sys.setrecursionlimit(1000)
