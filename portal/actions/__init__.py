"""Proposed contract calls: digest, simulation, policy, approval and rejection."""
