"""System call filters: the default profile as data, and its compilation by libseccomp."""
