"""What the verbs of an application have in common."""

from __future__ import annotations

import attrs

from broker.client.core import Core


@attrs.define(eq=False)
class BaseVerbs:
    """Things that are asked of the broker by one client, and answered once.

    What changes nothing, or is known to the broker by a key, is asked again after a loss; other things end with
    ``ConnectionLost`` then.  ``timeout`` is in seconds, 0 for none; ``wait`` says whether it waits for a connection.
    """

    core: Core
