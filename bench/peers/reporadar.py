"""RepoRadar with the additional routes that the peers have."""

from app import create_app
from app.core import config
from bench.peers import publisher, routes

app = create_app(config.from_environment_or_exit())
app.register_blueprint(routes.blueprint)
publisher.listen(lambda user_id, state: app.extensions["notifications"].publish_analysis([user_id], state))
