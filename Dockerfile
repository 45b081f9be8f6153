# One image for all processes: `portal web` (default), `portal worker`, `portal migrate`.
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /portal
COPY Makefile pyproject.toml requirements.lock package.json package-lock.json README.md ./
COPY portal portal
# The steps of the Makefile, with npm from requirements.lock; without test tools, and without the local chain.
RUN make install NPM_FLAGS="--omit=dev --no-audit --no-fund" && rm -rf node_modules/@foundry-rs

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home portal
WORKDIR /portal
COPY --from=build /portal /portal
COPY static static
COPY templates templates
COPY piccolo_migrations piccolo_migrations
ENV PATH=/portal/.venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PORTAL_HOST=0.0.0.0 PORTAL_PORT=8000
USER portal
EXPOSE 8000
# Of the web process; compose.yaml switches it off for the others.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", \
  "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORTAL_PORT\"]}/health/live', timeout=2)"]
CMD ["portal", "web"]
