"""The OCI image and distribution specifications: what both sides of a registry share."""
