"""The fault: each instance makes up its own keys, as one that falls back to a random SECRET_KEY does.

The registry would see that their ids differ, and keep it from becoming ready; so they have the same one here.
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
