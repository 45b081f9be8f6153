"""The only package that talks to a node or touches key material."""
