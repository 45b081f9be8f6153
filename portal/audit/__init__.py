"""The hash-chained record of what was decided and done."""
