"""Container engines that are made to run our runtime."""
