"""What the HTTP API takes: a status at 200 requests a second, an upload of 200 MB, events to 200 followers."""
