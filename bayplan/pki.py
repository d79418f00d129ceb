"""Certificates: the cluster's CA, signing requests, and what a certificate says of its holder."""
