/// The management side of a node: health, metrics, sessions, retained events.
