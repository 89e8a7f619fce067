"""RepoRadar itself, with routes that do no more than the peers' do."""

from __future__ import annotations

from app import config, create_app
from bench.peers import routes

app = create_app(config.from_environment_or_exit())
app.register_blueprint(routes.blueprint)
