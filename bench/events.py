"""Generates many analytics events and their rollups inside PostgreSQL. The events are the same in each run."""

from datetime import datetime

from sqlalchemy import Connection, text

from app.analytics.catalogue import BY_NAME
from app.core.timestamps import LENGTHS

ACCOUNTS, VISITORS_A_DAY = 2000, 800
# Percentage of each event. Page events have one of PATHS, the first ones more often.
SHARES = {
    "page_viewed": 45,
    "page_left": 36,
    "report_viewed": 5,
    "analysis_requested": 3,
    "sign_up_opened": 2,
    "repository_added": 2,
    "signed_up": 1,
    "notifications_opened": 3,
    "notification_followed": 3,
}
PATHS = ["/", "/repositories/:id", "/compare", "/notifications", "/login", "/register", "/settings", "/privacy", "/admin/fleet"]

STORE = text("""
    INSERT INTO analytics_events (person, event_id, name, category, path, properties, occurred_at)
    SELECT
        CASE
            WHEN whose < 0.4 THEN md5('account' || floor(who * :accounts))
            ELSE md5('visitor' || date_trunc('day', moment, 'UTC') || floor(who * :visitors))
        END,
        'event-' || number,
        (:names)[kind],
        (:categories)[kind],
        CASE WHEN (:names)[kind] LIKE 'page%' THEN (:paths)[1 + floor(path * path * array_length(:paths, 1))::int] ELSE '' END,
        '{}',
        moment
    FROM (
        SELECT
            number,
            1 + floor(random() * array_length(:names, 1))::int AS kind,
            random() AS whose,
            random() AS who,
            random() AS path,
            CAST(:since AS timestamptz) + random() * (CAST(:until AS timestamptz) - :since) AS moment
        FROM generate_series(1, :count) AS number
    ) AS chance
    ORDER BY moment -- in the order of arrival
""")
COUNT = [
    text("""
        INSERT INTO analytics_rollups (grain, start, name, category, path, events)
        SELECT :grain, date_trunc(:grain, occurred_at, 'UTC') AS start, name, category, path, count(*)
        FROM analytics_events GROUP BY start, name, category, path
    """),
    text("""
        INSERT INTO analytics_visits (grain, start, person)
        SELECT DISTINCT :grain, date_trunc(:grain, occurred_at, 'UTC'), person FROM analytics_events
    """),
    text("""
        INSERT INTO analytics_visitors (grain, start, visitors)
        SELECT grain, start, count(*) FROM analytics_visits WHERE grain = :grain GROUP BY grain, start
    """),
]


def store(connection: Connection, count: int, since: datetime, until: datetime) -> None:
    names = [name for name, share in SHARES.items() for _ in range(share)]
    connection.execute(text("SELECT setseed(0.5)"))
    values = {
        "names": names,
        "categories": [BY_NAME[name].category for name in names],
        "paths": PATHS,
        "accounts": ACCOUNTS,
        "visitors": VISITORS_A_DAY,
        "since": since,
        "until": until,
        "count": count,
    }
    connection.execute(STORE, values)


def count_all(connection: Connection) -> None:
    """Compute the rollups that `app.analytics.rollups` would maintain event by event."""
    for grain in LENGTHS:
        for statement in COUNT:
            connection.execute(statement, {"grain": grain})
