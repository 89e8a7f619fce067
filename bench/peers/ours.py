"""RepoRadar itself, with routes that do no more than the peers' do."""

from __future__ import annotations

from app import create_app
from app.core import config
from bench.peers import orders, routes

app = create_app(config.from_environment_or_exit())
app.register_blueprint(routes.blueprint)
orders.take(lambda user_id, state: app.extensions["notifications"].publish_analysis([user_id], state))
