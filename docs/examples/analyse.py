"""Follows a repository, waits for its analysis, and prints its verdict and scores. Needs an API token with the scope `write`.

REPORADAR_URL=https://radar.example.org REPORADAR_TOKEN=rr_... python analyse.py https://github.com/pallets/flask
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

FINAL = ("succeeded", "failed", "cancelled")


def call(method: str, path: str, body: dict | None = None) -> dict:
    """Return the response of the API. Exit with its explanation if it is an error."""
    request = urllib.request.Request(
        os.environ["REPORADAR_URL"].rstrip("/") + path,
        method=method,
        data=json.dumps(body).encode() if body else None,
        headers={"Authorization": f"Bearer {os.environ['REPORADAR_TOKEN']}", "Content-Type": "application/json"},
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503):
                sys.exit(error.read().decode())  # problem details: `detail` says what is wrong
            # Too many requests, or a dependency of the server is unavailable. These requests can be repeated without harm.
            time.sleep(int(error.headers.get("Retry-After", 5)))


def main(address: str) -> None:
    analysis = call("POST", "/api/repositories", {"url": address})["analysis"]
    while analysis["status"] not in FINAL:
        time.sleep(1)
        analysis = call("GET", f"/api/analyses/{analysis['id']}")
    if analysis["status"] != "succeeded":
        sys.exit(f"The analysis has {analysis['status']}: {analysis['error']}")
    report = call("GET", f"/api/analyses/{analysis['id']}")["report"]
    print(report["verdict"]["headline"])
    for name, found in report["scores"].items():
        print(f"{name:15}{found['score']}")


if __name__ == "__main__":
    main(sys.argv[1])
