"""What schemathesis does not know by itself: lines of JSON as a request's body."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(_, value):
    # Values that break the schema need not be arrays.
    items = value if isinstance(value, list) else [value]
    return "".join(json.dumps(item) + "\n" for item in items).encode()
