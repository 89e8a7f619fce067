"""During a Redis outage, pages without a session work, and all others say what to do."""

from playwright.sync_api import expect

from harness.servers import Instance, RedisServer, fleet_environment
from tests.browser.conftest import Visit, open_account


def test_pages_during_an_outage_of_the_session_store(visit: Visit, database_url: str) -> None:
    with RedisServer() as redis:
        environment = fleet_environment(redis.url, database_url)
        with Instance(environment) as instance:
            signed_in, stranger = visit(base_url=instance.url), visit(base_url=instance.url)
            open_account(signed_in)
            redis.kill()

            for path in ("/login", "/register"):
                signed_in.goto(path)
                expect(signed_in.get_by_label("E-mail")).to_be_visible()
            stranger.goto("/")
            expect(stranger.get_by_role("main").get_by_role("link", name="Register")).to_be_visible()

            for path in ("/", "/settings"):
                answer = signed_in.goto(path)
                assert answer
                assert answer.status == 503
                expect(signed_in.get_by_role("main")).to_contain_text("Try again in a moment.")

            redis.start()
            signed_in.goto("/")
            expect(signed_in.get_by_role("heading", level=1)).to_have_text("Your repositories")
            signed_in.goto("about:blank")  # an open connection would miss the instance, and say so on the console
