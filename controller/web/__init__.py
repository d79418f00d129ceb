"""What is asked by HTTP: metrics, service discovery, readiness."""
