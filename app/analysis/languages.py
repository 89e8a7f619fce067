"""Recognises licences by their text."""

import tempfile

from identify.identify import license_id

MAX_LICENSE_BYTES = 64 * 1024


def spdx_id(text: bytes) -> str | None:
    """Return the SPDX identifier of the text of a licence, or None if the text is unknown or was changed too much."""
    lines = (line.strip() for line in text[:MAX_LICENSE_BYTES].decode(errors="replace").splitlines())
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        # The library ignores empty lines, but many of them would make it very slow.
        file.write("\n".join(line for line in lines if line))
        file.flush()
        return license_id(file.name)
