"""The page that defines the scores. Its numbers are those of the formulas."""

from werkzeug import Response

from app.analysis import scores, verdict
from app.web.pages import blueprint, render


@blueprint.get("/about/scores")
def about_scores() -> Response:
    return render("about_scores.html", formulas=scores, verdict=verdict)
