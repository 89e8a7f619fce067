"""What `flask rehearse` starts, with the environment of the fleet: `python -m gevent.monkey --module app.rehearsal PLAN`.

Official clients have threads, hundreds of them here, which become greenlets; for that gevent has to come before all else, the
package `app` itself included.
"""

from app.rehearsal.program import main

main()
