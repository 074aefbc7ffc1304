"""The fields of a row as a user writes them: their bounds, their short forms, and the objects among them."""
