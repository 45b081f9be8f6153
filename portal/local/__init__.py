"""`portal up`: embedded PostgreSQL and chain, supervision, quickstart."""
