"""`bay`, what operators type: one file a verb, each imported when it is used."""
