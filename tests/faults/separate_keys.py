"""The fault: each instance generates its own keys, as with a random SECRET_KEY as fallback.

The keys have the same ID here, because the registry would not let an instance with another key ID become ready.
"""

import os
import secrets
from dataclasses import replace

from app import create_app
from app.core import config, keyring

keyring.key_id = lambda key: "0" * 16

settings = config.from_environment_or_exit()
own = replace(settings, session_encryption_key=(os.urandom(32),), session_secret=(secrets.token_hex(32),))
app = create_app(own)
