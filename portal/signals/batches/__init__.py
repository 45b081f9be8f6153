"""Long work over many signals, slice by slice, with progress: exports and rechecks; replays are in `rules`."""
