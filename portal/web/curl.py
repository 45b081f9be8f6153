"""A line for a shell that sends one correctly signed delivery: the quickest proof that a source works. Pure."""

import shlex


def curl_line(scheme: str, url: str, secret: str) -> str:
    """Needs `bash`, `openssl` and `curl`; holds the secret, so it is shown only where the secret is."""
    return {"github": _github, "standard_webhooks": _standard_webhooks}[scheme](url, secret)


def _github(url: str, secret: str) -> str:
    return f"""body='{{"zen":"Keep it logically awesome."}}'
signature=$(printf '%s' "$body" | openssl dgst -sha256 -hmac {shlex.quote(secret)} | sed 's/^.* //')
curl -i {url} \\
  -H 'Content-Type: application/json' \\
  -H 'X-GitHub-Event: ping' \\
  -H "X-GitHub-Delivery: try-$(date +%s)" \\
  -H "X-Hub-Signature-256: sha256=$signature" \\
  -d "$body\""""


def _standard_webhooks(url: str, secret: str) -> str:
    encoded = secret.removeprefix("whsec_")
    padded = encoded + "=" * (-len(encoded) % 4)
    return f"""body='{{"type":"ping","data":{{}}}}'; at=$(date +%s); id="try_$at"
key=$(printf '%s' {shlex.quote(padded)} | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \\n')
signature=$(printf '%s' "$id.$at.$body" |
  openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | openssl base64 -A)
curl -i {url} \\
  -H 'Content-Type: application/json' \\
  -H "webhook-id: $id" \\
  -H "webhook-timestamp: $at" \\
  -H "webhook-signature: v1,$signature" \\
  -d "$body\""""
