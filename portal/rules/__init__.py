"""Rules: a CEL condition on signals and the action they propose."""
